"""MLflow as a view of the store: it can be deleted and rebuilt, and syncing twice changes nothing.

A suite is an experiment. A run is known by its tag RUN_KEY, the id of its cell or the key of its setting; its digest
shows whether it is up to date. A note in the store (last_sync) says what was synced, so that a sync with nothing new
reads no record. The note is deleted before anything is changed: after an interrupted sync, the next one looks at every
run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from benchmark.errors import UserError
from benchmark.suite.suite import Suite
from results.board.contests import BoardTests
from results.board.leaderboard import aggregate
from results.report.report import Report
from results.store.record import Broken
from results.store.store import Store
from results.tracking.client import connect, default_tracking_uri
from results.tracking.experiment import (
    analyze,
    artifact_folder,
    has_runs,
    is_unchanged,
    open_experiment,
    set_aside_if_moved,
    set_landing_page,
    tracked_runs,
)
from results.tracking.last_sync import RESULT_FILES, LastSync, TrackedRun, board_digest, inputs_digest
from results.tracking.notes import verdict_line
from results.tracking.runs import REVISION, STORE, WantedRun
from results.tracking.suite_runs import BOARD_KEY, board_run, wanted_runs
from results.tracking.write import complete, create, move, remove

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

ShowProgress = Callable[[int, int], None]
"""Called with the number of runs that are done, and of all."""


@dataclass(frozen=True)
class Synced:
    """How many runs a sync touched; `removed` are those whose cell left the suite or the store.

    `set_aside` is the new name of the database of a store that was moved, which this sync made anew.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    broken: tuple[Broken, ...] = ()
    set_aside: Path | None = None

    def __str__(self) -> str:
        moved = f"; the store was moved, and its old database is now {self.set_aside.name}" if self.set_aside else ""
        return (
            f"{self.created} runs created, {self.updated} updated, {self.unchanged} unchanged,"
            f" {self.removed} removed{moved}"
        )

    @property
    def changed(self) -> bool:
        """Whether MLflow shows something new."""
        return self.created + self.updated + self.removed > 0


def sync(
    store: Store,
    suite: Suite,
    tracking_uri: str | None = None,
    report: Report | None = None,
    show: ShowProgress = lambda done, total: None,
) -> Synced:
    """Make the experiment of the (whole) suite show what is in the store.

    `report` is made if the caller has none. MachineError: MLflow is down, slow or refuses. UserError: MLflow shows runs
    of the suite and the store has none, so it is probably the wrong store, or another suite has the same name.
    """
    uri = tracking_uri or default_tracking_uri(store)
    _require_access(store, tracking_uri)
    # One sync of a store at a time: two that create the database at once leave it broken.
    with store.alone("sync", patience_seconds=math.inf) if store.is_writable else nullcontext():
        set_aside = set_aside_if_moved(store) if tracking_uri is None else None
        inputs = inputs_digest(store, suite)
        last = LastSync.load(store, uri, suite.name)
        before = last.suite_file if last else ""
        if last is not None and last.inputs == inputs and last.is_database_untouched(uri):
            return _nothing_new(last)
        with connect(uri, ours=tracking_uri is None) as client:
            artifacts = artifact_folder(store, uri) if uri.startswith("sqlite:") else None
            experiment = open_experiment(client, suite, artifacts)
            last = last if last and is_unchanged(client, experiment, last) else None
            if last and last.inputs == inputs:
                last.save(store, uri, suite.name)
                return _nothing_new(last)
            # Before the records are read: a run that another sync makes in the meantime is left alone.
            present = {} if last is None else {key: [run] for key, run in last.runs.items()}
            if last is None:
                present = tracked_runs(client, experiment.experiment_id, store.identity)
            results = inputs_digest(store, suite, RESULT_FILES)
            records, broken = store.read(suite.cells)
            if not records and has_runs(client, experiment.experiment_id):
                raise UserError(f"store {store.root}: nothing of suite {suite.name!r}; MLflow's runs stay as they are")
            tests = BoardTests(aggregate(suite.cells, records, budgets=suite.budgets), "rmse_future")
            wanted = wanted_runs(store, suite, tests, records)
            board = board_digest(results, records, broken)
            kept = {}
            if last and last.board == board and BOARD_KEY in present:
                kept[BOARD_KEY] = present.pop(BOARD_KEY)[0]
            elif records:
                wanted.append(board_run(tests, records, report or Report(store, suite, records, broken)))
            _require_same_file(suite, before, present.keys() - {run.key for run in wanted})
            LastSync.forget(store, uri, suite.name)
            ours = [replace(run, tags={**run.tags, STORE: store.identity}) for run in wanted]
            counts, runs = _update_runs(client, experiment.experiment_id, ours, present, show)
            if records:
                set_landing_page(client, experiment, suite, (runs | kept)[BOARD_KEY].run_id, verdict_line(tests))
            revision = _new_revision(client, experiment)
        if tracking_uri is None:
            analyze(uri)
        if revision is not None:
            reasons = [(str(one.folder), one.reason) for one in broken]
            note = LastSync(inputs, board, experiment.experiment_id, revision, runs | kept, reasons)
            replace(note, suite_file=_file_of(suite, store, before)).save(store, uri, suite.name)
    counts["unchanged"] += len(kept)
    return Synced(**counts, broken=tuple(broken), set_aside=set_aside)


def _require_access(store: Store, tracking_uri: str | None) -> None:
    """Make the store's folders if this user may. UserError: there is no store, or no database that we may write."""
    if not store.root.is_dir():
        raise UserError(f"store {store.root}: there is none")
    if tracking_uri is None and not store.is_writable:
        raise UserError(
            f"store {store.root}: you may read it and not write; name a database of your own,"
            " such as --tracking-uri sqlite:////absolute/path.db"
        )
    if store.is_writable:
        store.make()


def _file_of(suite: Suite, store: Store, before: str) -> str:
    """File of the suite, or for a copy in the store the one `before`."""
    path = suite.path.resolve()
    return before if path.is_relative_to(store.root.resolve()) else str(path)


def _require_same_file(suite: Suite, before: str, leaving: Iterable[str]) -> None:
    """Raise UserError if runs would leave MLflow that another file with this name of a suite has put there."""
    if any(leaving) and before and Path(before) != suite.path.resolve() and Path(before).exists():
        raise UserError(
            f"{suite.path}: the page {suite.name!r} in MLflow shows {before}, and this file would remove runs of it;"
            " give one of them another `name`"
        )


def _nothing_new(last: LastSync) -> Synced:
    return Synced(unchanged=len(last.runs), broken=tuple(Broken(Path(folder), why) for folder, why in last.broken))


def _update_runs(
    client: MlflowClient,
    experiment_id: str,
    wanted: Sequence[WantedRun],
    present: Mapping[str, Sequence[TrackedRun]],
    show: ShowProgress,
) -> tuple[Counter[str], dict[str, TrackedRun]]:
    """Create, complete or remove runs until those `wanted` are there; `present` are those in MLflow now.

    Returns the numbers of runs that were created, updated, unchanged and removed, and the runs by key.
    """
    counts: Counter[str] = Counter()
    runs: dict[str, TrackedRun] = {}
    for done, run in enumerate(wanted):
        show(done, len(wanted))
        parent_id = runs[run.parent].run_id if run.parent else ""
        old = sorted(present.get(run.key, ()), key=lambda one: one.digest != run.digest)
        if old and old[0].digest == run.digest:
            counts["unchanged"] += 1
            tracked = old[0] if old[0].parent_id == parent_id else move(client, old[0], parent_id)
        else:
            counts["updated" if old else "created"] += 1
            completed = complete(client, old[0].run_id, run, parent_id) if old else None
            tracked = completed or create(client, experiment_id, run, parent_id)
        for other in old:
            if other.run_id != tracked.run_id:
                remove(client, other.run_id)
        runs[run.key] = tracked
    for key, others in present.items():
        for other in others if key not in runs else ():
            remove(client, other.run_id)
            counts["removed"] += 1
    show(len(wanted), len(wanted))
    return counts, runs


def _new_revision(client: MlflowClient, experiment: Experiment) -> str | None:
    """A new revision for the experiment. None if another sync has set one since `experiment` was read: the next sync
    then has to look at every run."""
    now = client.get_experiment(experiment.experiment_id)
    revision = uuid4().hex
    client.set_experiment_tag(experiment.experiment_id, REVISION, revision)
    return revision if now.tags.get(REVISION) == experiment.tags.get(REVISION) else None
