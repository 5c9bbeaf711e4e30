"""The experiment of a suite in MLflow: its tags, its table views, and the runs in it that are ours."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.suite.suite import Suite
from results.store.store import Store
from results.tracking.client import connect
from results.tracking.last_sync import LastSync, TrackedRun
from results.tracking.runs import (
    DIGEST,
    LANDING_PAGE,
    LONGEST_TAG,
    PARENT,
    REPLACED,
    REVISION,
    RUN_KEY,
    STORE,
    SUITE,
    TABLE_VIEWS,
)
from results.tracking.table_views import (
    REPORT,
    STATE_TAG,
    experiment_name,
    experiment_note,
    keys_and_questions,
    report_path,
    table_views,
    view_path,
)

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient


def artifact_folder(store: Store, uri: str | None = None) -> Path:
    """Folder of the artifacts of a database: in the store, or beside the database at `uri` for a mere reader."""
    beside = store.root if uri is None or store.is_writable else Path(uri.removeprefix("sqlite:///")).parent
    return (beside / "mlartifacts").resolve()


def set_aside_if_moved(store: Store) -> Path | None:
    """Rename the database of a store that was copied or moved since, and return its new name; otherwise None.

    MLflow would write the artifacts to the old place, which its experiments name. The database is made anew.
    """
    path, artifacts = store.root / "mlflow.db", artifact_folder(store)
    if not path.exists():
        return None
    question = "select artifact_location from experiments join experiment_tags using (experiment_id) where key = ?"
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error):  # not MLflow's: `connect` says so
        places = [place for (place,) in database.execute(question, (SUITE,))]
        if any(not place.startswith(artifacts.as_uri()) for place in places):
            return path.rename(path.with_suffix(".db.moved"))
    return None


def open_experiment(client: MlflowClient, suite: Suite, artifacts: Path | None) -> Experiment:
    """The experiment of the suite, created or restored if it is missing, with its table views.

    Its artifacts go below the folder `artifacts`; None leaves the place to the server.
    """
    name = experiment_name(suite.name)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = None if artifacts is None else artifacts / hashlib.sha256(name.encode()).hexdigest()[:12]
        location = None if folder is None else folder.as_uri()
        experiment = client.get_experiment(client.create_experiment(name, location))
    elif experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    views = table_views(suite.cells)
    tags = {
        SUITE: suite.name[:LONGEST_TAG],
        TABLE_VIEWS: keys_and_questions(views),
        "mlflow.experimentKind": "custom_model_development",
        **{f"{STATE_TAG}{view.key}": view.tag(place) for place, view in enumerate(views)},
    }
    _set_tags(client, experiment, tags)
    return experiment


def set_landing_page(client: MlflowClient, experiment: Experiment, suite: Suite, run_id: str, verdict: str) -> None:
    """Make the run LEADERBOARD the first page of `symbench ui`, and write the note, whose first line is `verdict`."""
    note = experiment_note(experiment.experiment_id, table_views(suite.cells), verdict, run_id)
    _set_tags(client, experiment, {LANDING_PAGE: run_id, "mlflow.note.content": note})


def _set_tags(client: MlflowClient, experiment: Experiment, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def table_view_links(tracking_uri: str) -> dict[str, list[tuple[str, str]]]:
    """Suite name -> its pages as (question, path below the server), for all suites that were synced there.

    The first is the report.
    """
    with connect(tracking_uri) as client:
        return {
            experiment.tags[SUITE]: [
                *((REPORT, report_path(experiment.experiment_id, run)) for run in _landing_page(experiment)),
                *(
                    (question, view_path(experiment.experiment_id, key, mode))
                    for key, question, mode in json.loads(experiment.tags.get(TABLE_VIEWS, "[]"))
                ),
            ]
            for experiment in client.search_experiments()
            if SUITE in experiment.tags
        }


def _landing_page(experiment: Experiment) -> list[str]:
    return [experiment.tags[LANDING_PAGE]] if LANDING_PAGE in experiment.tags else []


def analyze(uri: str) -> None:
    """Let SQLite look at its tables: MLflow then sorts thousands of runs ten times as fast."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("ANALYZE")


def is_unchanged(client: MlflowClient, experiment: Experiment, last: LastSync) -> bool:
    """Whether the experiment is as the last sync left it: no sync from elsewhere, and no run deleted by a person."""
    if (experiment.experiment_id, experiment.tags.get(REVISION)) != (last.experiment_id, last.revision):
        return False
    return not _deleted_runs(client, experiment.experiment_id)


def tracked_runs(client: MlflowClient, experiment_id: str, store: str) -> dict[str, list[TrackedRun]]:
    """Runs of the store of that identity, by key, and those without a store, of earlier versions.

    Those that a person deleted are restored.
    """
    for run in _deleted_runs(client, experiment_id):
        if run.data.tags.get(STORE, store) == store:
            client.restore_run(run.info.run_id)
    tracked: dict[str, list[TrackedRun]] = {}
    for run in _search(client, experiment_id, f"tags.`{RUN_KEY}` != ''"):
        tags = run.data.tags
        if tags.get(STORE, store) != store:
            continue
        one = TrackedRun(run.info.run_id, tags.get(DIGEST, ""), tags.get(PARENT, ""))
        tracked.setdefault(tags[RUN_KEY], []).append(one)
    return tracked


def has_runs(client: MlflowClient, experiment_id: str) -> bool:
    """Whether the experiment has a run of symbench, of whichever store."""
    return next(_search(client, experiment_id, f"tags.`{RUN_KEY}` != ''"), None) is not None


def _deleted_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    from mlflow.entities import ViewType

    return list(_search(client, experiment_id, f"tags.`{RUN_KEY}` != '{REPLACED}'", ViewType.DELETED_ONLY))


def _search(client: MlflowClient, experiment_id: str, which: str, view: int = 1) -> Iterator[Any]:
    """All runs that match, page by page; `view` is a mlflow.entities.ViewType, by default those not deleted."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], which, view, page_token=token or None)
        yield from page
        token = page.token or None
