"""Writing runs through MLflow's client: create one, complete one in place, move it, remove it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.tracking.last_sync import TrackedRun
from results.tracking.runs import CURVES, DIGEST, PARENT, REPLACED, RUN_KEY, Point, WantedRun

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

MOST_ENTITIES, MOST_PARAMS = 1000, 100
"""In one request."""


def create(client: MlflowClient, experiment_id: str, wanted: WantedRun, parent_id: str) -> TrackedRun:
    """Create a run that shows `wanted`; its digest is written last."""
    from mlflow.entities import Param

    tags = _tags(wanted, parent_id)
    run_id = client.create_run(experiment_id, wanted.start, tags, wanted.name).info.run_id
    params = [Param(key, value) for key, value in wanted.params.items()]
    _log(client, run_id, wanted, params, wanted.metrics, {})
    return TrackedRun(run_id, wanted.digest, parent_id)


def complete(client: MlflowClient, run_id: str, wanted: WantedRun, parent_id: str) -> TrackedRun | None:
    """Make the run show `wanted`, or return None if it shows what can be neither changed nor removed.

    The run of a cell that goes on gets the epochs that it lacks; new statistics of a setting follow the old ones.
    """
    from mlflow.entities import Param

    run = client.get_run(run_id)
    params = run.data.params
    if any(wanted.params.get(key) != value for key, value in params.items()):
        return None
    if not set(_artifacts(client, run_id)) <= wanted.artifacts.keys():
        return None
    missing = _missing_points(client, run, wanted)
    if missing is None:
        return None
    tags = _tags(wanted, parent_id)
    for key in run.data.tags:
        if key.startswith("symbench.") and key not in (*tags, DIGEST):
            client.delete_tag(run_id, key)
    changed = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
    added = [Param(key, value) for key, value in wanted.params.items() if key not in params]
    if run.info.run_name != wanted.name or (wanted.end is None and run.info.status != wanted.status):
        client.update_run(run_id, wanted.status, wanted.name)
    _log(client, run_id, wanted, added, missing, changed)
    return TrackedRun(run_id, wanted.digest, parent_id)


def move(client: MlflowClient, run: TrackedRun, parent_id: str) -> TrackedRun:
    """Place the run under another one."""
    client.set_tag(run.run_id, PARENT, parent_id)
    return TrackedRun(run.run_id, run.digest, parent_id)


def remove(client: MlflowClient, run_id: str) -> None:
    """Delete the run, marked as deleted by symbench and not by a person."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(RUN_KEY, REPLACED), RunTag("symbench.kind", REPLACED)])
    client.delete_run(run_id)


def _tags(wanted: WantedRun, parent_id: str) -> dict[str, str]:
    """All tags but the digest."""
    return {RUN_KEY: wanted.key, **wanted.tags, **({PARENT: parent_id} if parent_id else {})}


def _log(
    client: MlflowClient,
    run_id: str,
    wanted: WantedRun,
    params: Sequence[Any],
    points: Sequence[Point],
    tags: Mapping[str, str],
) -> None:
    """Log data, artifacts and end of `wanted`, the given params, points and tags, and last the digest."""
    from mlflow.entities import Metric, RunTag

    if wanted.data:
        client.log_inputs(run_id, _dataset_inputs(wanted))
    for name, text in wanted.artifacts.items():
        client.log_text(run_id, text, name)
    if wanted.end is not None:
        client.set_terminated(run_id, wanted.status, wanted.end)
    metrics = [Metric(*point) for point in points]
    run_tags = [RunTag(key, value) for key, value in tags.items()]
    digest = RunTag(DIGEST, wanted.digest)
    if len(params) <= MOST_PARAMS and len(params) + len(metrics) + len(run_tags) < MOST_ENTITIES:
        client.log_batch(run_id, metrics=metrics, params=params, tags=[*run_tags, digest])
    else:  # the client divides it into several requests
        client.log_batch(run_id, metrics=metrics, params=params, tags=run_tags)
        client.log_batch(run_id, tags=[digest])


def _dataset_inputs(wanted: WantedRun) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", "training")
    return [
        DatasetInput(Dataset(data.name, data.digest, "local", data.source, profile=data.profile), [context])
        for data in wanted.data
    ]


def _missing_points(client: MlflowClient, run: Run, wanted: WantedRun) -> list[Point] | None:
    """The points that the run lacks, or None if it has a value that no later one can replace.

    An epoch never has two values: a cell that was trained anew gets a new run.
    """
    latest = run.data.metrics
    points: dict[str, list[Point]] = defaultdict(list)
    for point in wanted.metrics:
        points[point.name].append(point)
    if not latest.keys() <= points.keys():
        return None
    missing: list[Point] = []
    for name, members in points.items():
        if name not in latest:
            missing += members
        elif len(members) > 1 or members[0].value != latest[name]:
            lacking = _missing_of_metric(client.get_metric_history(run.info.run_id, name), members)
            if lacking is None:
                return None
            missing += lacking
    return missing


def _missing_of_metric(history: Sequence[Metric], members: Sequence[Point]) -> list[Point] | None:
    """The points of one metric that are not in its `history`; None as above."""
    shown = {metric.step: metric for metric in sorted(history, key=lambda metric: (metric.timestamp, metric.value))}
    if max(shown) > max(point.step for point in members):
        return None
    missing = []
    for point in members:
        before = shown.get(point.step)
        if before is None:
            missing.append(point)
        elif before.value != point.value:
            if point.name in CURVES or before.timestamp >= point.time:
                return None
            missing.append(point)
    return missing


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for artifact in client.list_artifacts(run_id, folder):
        if artifact.is_dir:
            yield from _artifacts(client, run_id, artifact.path)
        else:
            yield artifact.path
