"""Differences between two sides of a comparison in settings, data, versions and machines."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results.board.published_board import MACHINE, VERSIONS
from results.board.quantities import plain
from results.board.row import Row
from results.store.record import Broken, Record


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, its rows and their records."""

    name: str
    rows: Sequence[Row]
    records: Mapping[str, Record]
    broken: Sequence[Broken] = ()


@dataclass(frozen=True)
class Difference:
    """A setting or a property of the records that differs, with its values on each side."""

    kind: str
    what: str
    first: tuple[str, ...]
    second: tuple[str, ...]


def differences(matches: Sequence[tuple[Row, Row]], first: Side, second: Side) -> list[Difference]:
    """Differences in the settings of matched rows, then in the data, versions and machines of their records."""
    values: dict[tuple[str, str], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for pair in matches:
        properties = [_properties(row, side) for row, side in zip(pair, (first, second), strict=True)]
        for key in properties[0].keys() | properties[1].keys():
            one, other = (each.get(key, set()) for each in properties)
            unknown = key[0] in ("version", "machine") and not (one and other)
            if one != other and not unknown:
                values[key][0].update(one)
                values[key][1].update(other)
    order = ("model", "setting", "training", "data", "version", "machine")
    return [
        Difference(kind, what, tuple(sorted(ones)), tuple(sorted(others)))
        for (kind, what), (ones, others) in sorted(values.items(), key=lambda item: (order.index(item[0][0]), item[0]))
    ]


def _properties(row: Row, side: Side) -> dict[tuple[str, str], set[str]]:
    """(kind, name) -> values of one row and its records."""
    properties: dict[tuple[str, str], set[str]] = {("model", "model"): {row.model}}
    for kind, settings in (("setting", row.config), ("training", row.train)):
        properties |= {(kind, key): {plain(value)} for key, value in settings.items()}
    properties["training", "seeds"] = {", ".join(str(seed.seed) for seed in row.seeds)}
    environments = [side.records[seed.cell_id].environment for seed in row.seeds if seed.cell_id in side.records]
    place = f"{row.dataset} level {row.level} ({row.preset})"
    named = [
        *(("version", key, key) for key in VERSIONS),
        ("version", f"code of {row.model}", "model_digest"),
        *(("machine", key, key) for key in ("host", "platform", *MACHINE)),
        ("data", f"checksum of {place}", "data_checksum"),
    ]
    for kind, what, key in named:
        values = {plain(environment[key])[:16] for environment in environments if environment.get(key) is not None}
        if values:
            properties[kind, what] = values
    return properties
