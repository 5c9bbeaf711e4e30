"""What two sides of a comparison do not have in common: settings, data, versions, machines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results.board.published_board import MACHINE, VERSIONS
from results.board.quantities import plain
from results.board.row import Row
from results.store.record import Broken, Record


@dataclass(frozen=True)
class Side:
    """One of the two: what it is called, its rows and the records behind them."""

    name: str
    rows: Sequence[Row]
    records: Mapping[str, Record]
    broken: Sequence[Broken] = ()


@dataclass(frozen=True)
class Difference:
    """Something that the sides do not have in common: its values on each."""

    kind: str
    what: str
    first: tuple[str, ...]
    second: tuple[str, ...]


def differences(matches: Sequence[tuple[Row, Row]], first: Side, second: Side) -> list[Difference]:
    """Settings of matched rows that differ, then data, versions and machines of the records behind them."""
    values: dict[tuple[str, str], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for pair in matches:
        told = [_told(row, side) for row, side in zip(pair, (first, second), strict=True)]
        for key in told[0].keys() | told[1].keys():
            mine = [one.get(key, set()) for one in told]
            if key[0] in ("version", "machine") and not all(mine):
                continue  # one of them does not tell
            if mine[0] != mine[1]:
                for kept, more in zip(values[key], mine, strict=True):
                    kept |= more
    order = ("model", "setting", "training", "data", "version", "machine")
    return [
        Difference(kind, what, tuple(sorted(ones)), tuple(sorted(others)))
        for (kind, what), (ones, others) in sorted(values.items(), key=lambda item: (order.index(item[0][0]), item[0]))
    ]


def _told(row: Row, side: Side) -> dict[tuple[str, str], set[str]]:
    """What can differ, of one row: (kind, name) -> its values."""
    told: dict[tuple[str, str], set[str]] = {("model", "model"): {row.model}}
    for kind, settings in (("setting", row.config), ("training", row.train)):
        told |= {(kind, key): {plain(value)} for key, value in settings.items()}
    told["training", "seeds"] = {", ".join(str(seed.seed) for seed in row.seeds)}
    environments = [side.records[seed.cell_id].environment for seed in row.seeds if seed.cell_id in side.records]
    place = f"{row.dataset} level {row.level} ({row.preset})"
    named = [
        *(("version", key, key) for key in VERSIONS),
        ("version", f"source of {row.model}", "model_file_sha256"),
        *(("machine", key, key) for key in ("host", "platform", *MACHINE)),
        ("data", f"checksum of {place}", "data_checksum"),
    ]
    for kind, what, key in named:
        found = {plain(environment[key])[:16] for environment in environments if environment.get(key) is not None}
        if found:
            told[kind, what] = found
    return told
