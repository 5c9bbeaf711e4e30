"""Second training of cells of a published board, in a store of its own, so that no finished record is reused."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmark.data.layout import read
from benchmark.data.paths import field_path
from benchmark.data.prepare import outlines, prepare
from benchmark.suite.suite import Suite
from benchmark.terminal import progress
from benchmark.training.machine import available_cpus
from cluster.jobs.capacity import shapes_here
from cluster.jobs.display import Display
from cluster.jobs.launch import run
from results.report.verification import Claim
from results.store.record import Record
from results.store.store import Store


def retrain(claims: Sequence[Claim], suite: Suite, store: Store) -> dict[str, Record]:
    """Train the cells of `claims` and return their records by cell id, without files.

    Data are those of `store`, where missing ones are simulated. `suite` gives the resources; a rank has as many threads
    as on the board, since their number changes the last digits.
    """
    store.make()
    _prepare(claims, store)
    by_threads: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_threads[claim.environment.get("threads", "")].append(claim)
    records: dict[str, Record] = {}
    with _scratch(store) as scratch:
        for threads, members in by_threads.items():
            cells = tuple(claim.cell for claim in members)
            with _threads(threads), Display(Console(stderr=True)) as display:
                run(replace(suite, cells=cells), scratch, display, suite, _lanes(suite, store, threads))
            records |= scratch.read(cells)[0]
    return records


def _lanes(suite: Suite, store: Store, threads: str) -> int:
    """Cells at a time, so few that each rank can have `threads`."""
    shapes = shapes_here(suite, store).values()
    cpus = available_cpus() // int(threads) if threads.isdecimal() else None
    return max(1, min(shape.lanes if cpus is None else min(shape.lanes, cpus // shape.ranks) for shape in shapes))


def _prepare(claims: Sequence[Claim], store: Store) -> None:
    """Simulate fields that the store does not have; a file with the checksum of the board is kept as it is."""
    fields = {}
    for claim in claims:
        dataset = claim.cell.dataset
        path = field_path(store.data_folder, dataset)
        if not path.is_file() or read(path, verify=False).checksum != claim.environment.get("data_checksum"):
            fields[dataset.name, dataset.preset, dataset.level] = path
    for work, _ in outlines(fields, store.data_folder):
        with progress(f"{work.name} ({work.preset})") as show:
            for _ in prepare(work, show, available_cpus()):
                pass


@contextmanager
def _scratch(store: Store) -> Iterator[Store]:
    """Empty store within `store`, with its data, that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=store.root))
    try:
        store.data_folder.mkdir(exist_ok=True)
        Store(folder).data_folder.symlink_to(store.data_folder.resolve(), target_is_directory=True)
        yield Store(folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _threads(number: str) -> Iterator[None]:
    """Limit the threads of a rank to `number` during the block, unless it is no number."""
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        if number.isdecimal():
            os.environ["OMP_NUM_THREADS"] = number
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
