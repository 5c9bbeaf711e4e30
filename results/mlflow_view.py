"""MLflow as a view of the store: it can be deleted and rebuilt, and syncing twice changes nothing.

A suite is an experiment. A run is known by its tag `symbench.cell`, the id of its cell or the identity of its setting;
the digest of what it shows, set last, tells whether it is up to date. What was synced is noted in the store, so that a
sync with nothing new reads no record; the note is thrown away before anything is changed, so that a sync that was
interrupted is followed by one that looks at every run.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from benchmark.errors import UserError
from benchmark.suite import Suite

from . import export, report
from .leaderboard import aggregate
from .mlflow_boards import LONGEST_TAG, STATE_TAG, SUITE, board_path, boards_of, experiment_name, note, told_boards
from .mlflow_client import connected, default_tracking_uri
from .mlflow_index import RESULT_FILES, REVISION, Found, Index, board_digest, inputs_digest
from .mlflow_insert import AT_ONCE, insert
from .mlflow_runs import BOARD_KEY, Import, board_run, cell_run, setting_run
from .mlflow_studies import study_runs
from .mlflow_write import DIGEST, IDENTITY, PARENT, REPLACED, complete, create, move, remove
from .record import Broken, Record
from .row import Row
from .store import Store, locked

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

BOARDS = "symbench.boards"
"""Tag of an experiment: its ready boards."""
Show = Callable[[int, int], None]
"""Told how many runs are done, of how many."""


@dataclass(frozen=True)
class Synced:
    """How many runs a sync touched; `removed` are those whose cell left the suite or the store."""

    experiment_id: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    broken: tuple[Broken, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.created} runs created, {self.updated} updated, {self.unchanged} unchanged, {self.removed} removed"
        )

    @property
    def changed(self) -> bool:
        """Whether MLflow shows something new."""
        return self.created + self.updated + self.removed > 0


def artifact_folder(store: Store) -> Path:
    """Where the artifacts of a database in the store lie."""
    return (store.root / "mlartifacts").resolve()


def sync(
    store: Store,
    suite: Suite,
    tracking_uri: str | None = None,
    report_html: str | None = None,
    panels: Sequence[report.Panel] | None = None,
    show: Show = lambda done, total: None,
) -> Synced:
    """Make the experiment of the (whole) suite show what is in the store. MachineError where MLflow does not let us.

    UserError: the store has nothing of a suite that MLflow shows, so that it is another one than was meant.
    `report_html` is the report and `panels` are its figures, where the caller has just made them.
    """
    uri = tracking_uri or default_tracking_uri(store)
    if not store.root.is_dir():
        raise UserError(f"store {store.root}: there is none")
    store.make()
    # One sync of a store at a time: two that create the database at once leave it broken.
    with locked(store.root / "mlflow.lock", math.inf):
        inputs = inputs_digest(store, suite)
        index = Index.load(store, uri, suite.name)
        if index is not None and index.inputs == inputs and index.is_database_untouched(uri):
            return _nothing_new(index)
        with connected(uri, ours=tracking_uri is None) as client:
            experiment = _experiment(client, suite, store, local=uri.startswith("sqlite:"))
            if index is not None and not _stands(client, experiment, index):
                index = None
            if index is not None and index.inputs == inputs:
                index.save(store, uri, suite.name)
                return _nothing_new(index)
            # Before the records are read: a run that another sync makes in the meantime is left alone.
            if index is not None:
                present = {key: [found] for key, found in index.runs.items()}
            else:
                present = _present(client, experiment.experiment_id)
            results = inputs_digest(store, suite, RESULT_FILES)
            records, broken = store.read(suite.cells)
            if present and not records:
                raise UserError(
                    f"store {store.root}: nothing of suite {suite.name!r}; MLflow's runs are left as they are"
                )
            board = board_digest(results, records, broken)
            kept = {}
            if index is not None and index.board == board and BOARD_KEY in present:
                kept[BOARD_KEY] = present.pop(BOARD_KEY)[0]
            wanted = wanted_runs(store, suite, records)
            if records and not kept:
                wanted.append(wanted_board(store, suite, records, broken, report_html, panels))
            Index.forget(store, uri, suite.name)
            database = store.root / "mlflow.db" if tracking_uri is None else None
            with _collecting_less():
                (created, updated, unchanged, removed), runs = _bring(
                    client, experiment, wanted, present, show, database
                )
            now = client.get_experiment(experiment.experiment_id)
            touched = now.tags.get(REVISION) != experiment.tags.get(REVISION)
            revision = uuid4().hex
            client.set_experiment_tag(experiment.experiment_id, REVISION, revision)
        if not touched:  # else the next sync looks at every run
            told = [(str(one.folder), one.reason) for one in broken]
            Index(inputs, board, experiment.experiment_id, revision, runs | kept, told).save(store, uri, suite.name)
    return Synced(experiment.experiment_id, created, updated, unchanged + len(kept), removed, tuple(broken))


def boards_at(tracking_uri: str) -> dict[str, list[tuple[str, str]]]:
    """Suite name -> its ready boards as (question, path below the server), of all that was synced there."""
    with connected(tracking_uri) as client:
        return {
            experiment.tags[SUITE]: [
                (question, board_path(experiment.experiment_id, key))
                for key, question in json.loads(experiment.tags.get(BOARDS, "[]"))
            ]
            for experiment in client.search_experiments()
            if SUITE in experiment.tags
        }


def wanted_runs(store: Store, suite: Suite, records: Mapping[str, Record]) -> list[Import]:
    """The runs of settings, cells and studies, each parent before its children; none if there is no record."""
    if not records:
        return []
    rows = aggregate(suite.cells, records)
    cells = {cell.id: cell for cell in suite.cells}
    best: dict[Any, Row] = {}
    for row in rows:  # in the order of the board: the best that is complete comes first
        if row.complete and "rmse_future" in row.metrics:
            best.setdefault(row.contest, row)
    wanted: list[Import] = []
    for row in rows:
        found = [records[seed.cell_id] for seed in row.seeds if seed.cell_id in records]
        if found:
            wanted.append(setting_run(row, cells[row.seeds[0].cell_id], records, suite.name, best.get(row.contest)))
            wanted += [cell_run(record, suite.name) for record in found]
    return [*wanted, *study_runs(suite, store)]


def wanted_board(
    store: Store,
    suite: Suite,
    records: Mapping[str, Record],
    broken: Sequence[Broken],
    report_html: str | None = None,
    panels: Sequence[report.Panel] | None = None,
) -> Import:
    """The run LEADERBOARD with its artifacts."""
    rows = aggregate(suite.cells, records)
    if panels is None:
        panels = report.panels_of(rows, records)
    if report_html is None:
        report_html = report.render(store, suite, records, broken, panels=panels)
    artifacts = {
        "report.html": report_html,
        "leaderboard.csv": export.to_csv(rows),
        "leaderboard.md": export.to_markdown(rows),
        **_figures(report.figures_of(panels)),
    }
    return board_run(rows, records, artifacts)


def _figures(drawn: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Artifacts: names without what all have in common, and a size, without which MLflow's viewer shows nothing."""
    parts = [stem.split("-") for stem, _ in drawn]
    common, fewest = 0, min((len(part) for part in parts), default=0)
    while common < fewest - 1 and len(drawn) > 1 and len({tuple(part[: common + 1]) for part in parts}) == 1:
        common += 1
    size = r'<svg \1 width="\2" height="\3" viewBox="0 0 \2 \3"'
    return {
        f"figures/{'-'.join(part[common:])}.svg": re.sub(
            r'^<svg ((?:(?!width|viewBox)[^>])*?) ?viewBox="0 0 ([\d.]+) ([\d.]+)"(?![^>]* width=)', size, svg
        )
        for part, (_, svg) in zip(parts, drawn, strict=True)
    }


def _nothing_new(index: Index) -> Synced:
    broken = tuple(Broken(Path(folder), reason) for folder, reason in index.broken)
    return Synced(index.experiment_id, unchanged=len(index.runs), broken=broken)


def _stands(client: MlflowClient, experiment: Experiment, index: Index) -> bool:
    """Whether MLflow is as the last sync from here left it: no other sync, and no run deleted by a person."""
    if (experiment.experiment_id, experiment.tags.get(REVISION)) != (index.experiment_id, index.revision):
        return False
    return not _deleted(client, experiment.experiment_id)


def _present(client: MlflowClient, experiment_id: str) -> dict[str, list[Found]]:
    """Key -> our runs of the experiment; those that a person deleted are brought back."""
    for run in _deleted(client, experiment_id):
        client.restore_run(run.info.run_id)
    present: dict[str, list[Found]] = {}
    for run in _runs(client, experiment_id, f"tags.`{IDENTITY}` != ''"):
        tags = run.data.tags
        found = Found(run.info.run_id, tags.get(DIGEST, ""), tags.get(PARENT, ""))
        present.setdefault(tags[IDENTITY], []).append(found)
    return present


def _deleted(client: MlflowClient, experiment_id: str) -> list[Any]:
    from mlflow.entities import ViewType

    return list(_runs(client, experiment_id, f"tags.`{IDENTITY}` != '{REPLACED}'", ViewType.DELETED_ONLY))


def _runs(client: MlflowClient, experiment_id: str, which: str, view: int = 1) -> Iterator[Any]:
    """Page by page; runs that others put there are not touched."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], which, view, page_token=token or None)
        yield from page
        token = page.token or None


def _bring(
    client: MlflowClient,
    experiment: Experiment,
    wanted: Sequence[Import],
    present: dict[str, list[Found]],
    show: Show,
    database: Path | None,
) -> tuple[tuple[int, int, int, int], dict[str, Found]]:
    """Counts of what was created, updated, unchanged and removed; and the runs that now stand, by their keys.

    Where the `database` is ours, new runs of seeds come last and many at a time.
    """
    created = updated = unchanged = removed = 0
    runs: dict[str, Found] = {}
    fresh: list[tuple[Import, str]] = []
    for done, one in enumerate(wanted):
        show(done - len(fresh), len(wanted))
        parent_id = runs[one.parent].run_id if one.parent else ""
        old = sorted(present.pop(one.key, []), key=lambda found: found.digest != one.digest)
        if database is not None and one.parent and not (old or one.data or one.artifacts):
            fresh.append((one, parent_id))
            continue
        if old and old[0].digest == one.digest:
            found = old[0] if old[0].parent_id == parent_id else move(client, old[0], parent_id)
            unchanged += 1
        else:
            completed = complete(client, old[0].run_id, one, parent_id) if old else None
            found = completed or create(client, experiment.experiment_id, one, parent_id)
            updated, created = updated + bool(old), created + (not old)
        for other in old:
            if other.run_id != found.run_id:
                remove(client, other.run_id)
        runs[one.key] = found
    if database is not None:
        for first in range(0, len(fresh), AT_ONCE):
            made = insert(database, experiment, fresh[first : first + AT_ONCE])
            runs |= {one.key: found for (one, _), found in zip(fresh[first:], made, strict=False)}
            created += len(made)
            show(len(wanted) - len(fresh) + first + len(made), len(wanted))
    for found in (found for members in present.values() for found in members):
        remove(client, found.run_id)
        removed += 1
    show(len(wanted), len(wanted))
    return (created, updated, unchanged, removed), runs


@contextmanager
def _collecting_less() -> Iterator[None]:
    """A run makes thousands of objects: garbage is looked for after dozens of runs, and not in what was read before."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _experiment(client: MlflowClient, suite: Suite, store: Store, local: bool) -> Experiment:
    """The suite's experiment, made or brought back where it is missing, with its note and its ready boards."""
    name = experiment_name(suite.name)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(store) / hashlib.sha256(name.encode()).hexdigest()[:12]
        experiment = client.get_experiment(client.create_experiment(name, folder.as_uri() if local else None))
    elif experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    boards = boards_of(suite.cells)
    tags = {
        SUITE: suite.name[:LONGEST_TAG],
        BOARDS: told_boards(boards),
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": note(experiment.experiment_id, boards),
        **{f"{STATE_TAG}{board.key}": board.state for board in boards},
    }
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment
