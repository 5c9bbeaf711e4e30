"""Merge of stores: finished records are copied as they are, and a cell of two stores is compared, never averaged."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.files import replacing
from results.store.archive import opened
from results.store.cell_recorder import RECORD_FILES
from results.store.record import Broken, Record, read_record, reason_of
from results.store.store import Store


@dataclass(frozen=True)
class Conflict:
    """Cell whose result in another store is not that of the target."""

    kept: Record
    other: Record

    @property
    def text(self) -> str:
        """The cell, and what differs in which folders."""
        first, second = self.kept, self.other
        name = f"{first.cell} ({first.cell.id})"
        if first.status.state != second.status.state:
            return f"{name}: {_place(first, first.status.state)}, {_place(second, second.status.state)}"
        names = sorted(first.outcome.keys() | second.outcome.keys(), key=lambda key: (not key.startswith("rmse_"), key))
        differing = [key for key in names if first.outcome.get(key) != second.outcome.get(key)]
        values = [_place(record, f"{record.outcome.get(differing[0], 'missing')}") for record in (first, second)]
        more = f", and {len(differing) - 1} more numbers" if len(differing) > 1 else ""
        return f"{name}: {differing[0]} is {values[0]}, {values[1]}{more}"


def _place(record: Record, value: str) -> str:
    host = record.environment.get("host", "an unknown machine")
    return f"{value} in {record.folder.parents[1]} (from {host})"


@dataclass
class Merged:
    """Result of a merge: cells copied from each source, cells that were equal there and in the target, and problems.

    `conflicts` have the record that the target keeps; `running` are cells that a process runs in the target. `mixed`
    has a line for each setting in the target whose seeds differ in data, code or metrics.
    """

    copied: Counter[Path] = field(default_factory=Counter)
    equal: Counter[Path] = field(default_factory=Counter)
    conflicts: list[Conflict] = field(default_factory=list)
    running: list[Cell] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    mixed: Sequence[str] = ()


def merge(sources: Sequence[Path], target: Store) -> Merged:
    """Copy the finished records of `sources`, stores or archives, that `target` does not have, with their provenance.

    Of a cell that is finished in several stores the first record is kept: that of `target`, or of the first store.
    UserError: one of `sources` holds no records, or is `target`.
    """
    merged = Merged()
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(path)) if path.is_file() else Store(path) for path in sources]
        for path, store in zip(sources, stores, strict=True):
            if not (store.root / "cells").is_dir():
                raise UserError(f"{path}: not a store, it has no folder cells/")
            if store.root.resolve() == target.root.resolve():
                raise UserError(f"{path}: the store that the others are merged into; name only the others")
        target.make()
        for path, store in zip(sources, stores, strict=True):
            for record in _finished(store, merged):
                mine = target.read([record.cell], history=False)[0].get(record.cell.id)
                if mine is None or not mine.status.is_result:
                    merged.copied[path] += _copy(record, target, merged)
                elif (mine.status.state, mine.outcome) == (record.status.state, record.outcome):
                    merged.equal[path] += 1
                else:
                    merged.conflicts.append(Conflict(mine, record))
    merged.mixed = target.review([record.cell for record in _finished(target, Merged())]).mixed_lines
    return merged


def _finished(store: Store, merged: Merged) -> Iterator[Record]:
    """Finished records of a store; those that cannot be read are added to `merged`."""
    for folder in sorted((store.root / "cells").iterdir()):
        try:
            record = read_record(folder, history=False)
            if record is not None and record.cell.id != folder.name:
                raise ValueError("it describes another cell")
        except (OSError, ValueError, TypeError) as error:
            merged.broken.append(Broken(folder, reason_of(error)))
            continue
        if record is not None and record.status.is_result:
            yield record


def _copy(record: Record, target: Store, merged: Merged) -> bool:
    """Copy a record under a lease of its cell, so that no process runs the cell meanwhile; whether it was copied."""
    with target.recorder(record.cell) as recorder:
        if recorder is None:
            merged.running.append(record.cell)
            return False
        for name in RECORD_FILES:
            source, copy = record.folder / name, recorder.folder / name
            if source.is_file():
                with replacing(copy) as temporary:
                    shutil.copyfile(source, temporary)
            else:
                copy.unlink(missing_ok=True)  # of an attempt that failed here
    return True
