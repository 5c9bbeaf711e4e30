"""Runs into MLflow: made anew, completed where they stand, or taken away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .mlflow_index import Found
from .mlflow_runs import CURVES, Import, Point

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

IDENTITY, DIGEST, PARENT = "symbench.cell", "symbench.digest", "mlflow.parentRunId"
REPLACED = "replaced"
"""The identity of a run that gave way to another one: it is deleted, and not to be brought back."""
MOST_ENTITIES, MOST_PARAMS = 1000, 100
"""In one request."""


def create(client: MlflowClient, experiment_id: str, wanted: Import, parent_id: str) -> Found:
    """A run that shows `wanted`; its digest is set last."""
    from mlflow.entities import Param

    tags = tags_of_run(wanted, parent_id)
    run_id = client.create_run(experiment_id, wanted.start, tags, wanted.name).info.run_id
    params = [Param(key, value) for key, value in wanted.params.items()]
    _log(client, run_id, wanted, params, _metrics(wanted.metrics), {})
    return Found(run_id, wanted.digest, parent_id)


def complete(client: MlflowClient, run_id: str, wanted: Import, parent_id: str) -> Found | None:
    """Make the run show `wanted` and keep its id; None where it shows what can be neither changed nor taken back.

    The run of a cell that goes on lacks epochs and the end; a parent's statistics are followed by new ones.
    """
    from mlflow.entities import Param

    run = client.get_run(run_id)
    params = run.data.params
    if any(wanted.params.get(key) != value for key, value in params.items()):
        return None
    if not set(_artifacts(client, run_id)) <= wanted.artifacts.keys():
        return None
    missing = _missing(client, run, wanted)
    if missing is None:
        return None
    tags = tags_of_run(wanted, parent_id)
    for key in run.data.tags:
        if key.startswith("symbench.") and key not in (*tags, DIGEST):
            client.delete_tag(run_id, key)
    changed = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
    added = [Param(key, value) for key, value in wanted.params.items() if key not in params]
    if run.info.run_name != wanted.name or (wanted.end is None and run.info.status != wanted.status):
        client.update_run(run_id, wanted.status, wanted.name)
    _log(client, run_id, wanted, added, missing, changed)
    return Found(run_id, wanted.digest, parent_id)


def move(client: MlflowClient, found: Found, parent_id: str) -> Found:
    """Under another run."""
    client.set_tag(found.run_id, PARENT, parent_id)
    return Found(found.run_id, found.digest, parent_id)


def remove(client: MlflowClient, run_id: str) -> None:
    """Delete the run, and let it be known that we did."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(IDENTITY, REPLACED), RunTag("symbench.kind", REPLACED)])
    client.delete_run(run_id)


def tags_of_run(wanted: Import, parent_id: str) -> dict[str, str]:
    """All but the digest."""
    return {IDENTITY: wanted.key, **wanted.tags, **({PARENT: parent_id} if parent_id else {})}


def _log(
    client: MlflowClient,
    run_id: str,
    wanted: Import,
    params: Sequence[Any],
    metrics: Sequence[Metric],
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

    if wanted.data:
        client.log_inputs(
            run_id,
            [
                DatasetInput(
                    Dataset(data.name, data.digest, "local", data.source, profile=data.profile),
                    [InputTag("mlflow.data.context", "training")],
                )
                for data in wanted.data
            ],
        )
    for name, text in wanted.artifacts.items():
        client.log_text(run_id, text, name)
    if wanted.end is not None:
        client.set_terminated(run_id, wanted.status, wanted.end)
    told = [RunTag(key, value) for key, value in tags.items()]
    digest = RunTag(DIGEST, wanted.digest)
    if len(params) <= MOST_PARAMS and len(params) + len(metrics) + len(told) < MOST_ENTITIES:
        client.log_batch(run_id, metrics=metrics, params=params, tags=[*told, digest])
    else:
        client.log_batch(run_id, metrics=metrics, params=params, tags=told)
        client.log_batch(run_id, tags=[digest])


def _metrics(points: Sequence[Point]) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, value, time, step) for name, value, time, step in points]


def _missing(client: MlflowClient, run: Run, wanted: Import) -> list[Metric] | None:
    """The points that the run lacks; None where it has a number that no later one overrules.

    An epoch never has two values: a cell that was trained anew gets a new run.
    """
    latest = run.data.metrics
    points: dict[str, list[Point]] = defaultdict(list)
    for point in wanted.metrics:
        points[point[0]].append(point)
    if not latest.keys() <= points.keys():
        return None
    missing: list[Point] = []
    for name, members in points.items():
        if name not in latest:
            missing += members
        elif len(members) > 1 or members[0][1] != latest[name]:
            history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: (m.timestamp, m.value))
            shown = {metric.step: metric for metric in history}
            if max(shown) > max(step for _, _, _, step in members):
                return None
            for point in members:
                _, value, time, step = point
                if step not in shown:
                    missing.append(point)
                elif shown[step].value != value:
                    if name in CURVES or shown[step].timestamp >= time:
                        return None
                    missing.append(point)
    return _metrics(missing)


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for artifact in client.list_artifacts(run_id, folder):
        if artifact.is_dir:
            yield from _artifacts(client, run_id, artifact.path)
        else:
            yield artifact.path
