"""Differences in settings, data, versions and machines: between two sides of a comparison, and within a board."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark.suite.labels import plain
from results.board.row import Row
from results.store.provenance import MACHINE, SHOWN_DIGITS, VERSIONS, compared, some
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
    order = ("metrics", "model", "setting", "training", "data", "version", "machine")
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
    properties["metrics", "version"] = {known["metrics"] for known in map(compared, environments) if known}
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


def provenance_notes(rows: Sequence[Row]) -> list[str]:
    """Sentences on what differs within a board: data of a task, code of a model, metrics, versions within a row.

    Empty if all agree as far as is known. Seeds of a row that differ in data, code or metrics are in its remark, too.
    """
    groups: dict[tuple[str, str], list[tuple[str, list[dict[str, str]]]]] = defaultdict(list)
    for row in rows:
        place = f"{row.dataset} level {row.level} ({row.preset})"
        networks = [str(value) for key, value in row.config.items() if key.split(".")[-1] == "network"]
        known = [compared(environment) for environment in row.environments]
        groups["data", place].append((row.label, known))
        groups["code", " ".join([row.model, *networks])].append((place, known))
        groups["metrics", "this board"].append((f"{row.label}, {place}", known))
    notes = [note for (kind, name), members in groups.items() if (note := _parted(kind, name, members))]
    return [*notes, *_versions_within_rows(rows)]


def _parted(kind: str, name: str, members: Sequence[tuple[str, Sequence[Mapping[str, str]]]]) -> str:
    """Sentence on rows of different data, code or metrics; empty if they agree, or are one row with its own remark."""
    values: dict[str, list[str]] = defaultdict(list)
    for label, seeds in members:
        for known in seeds:
            if kind in known:
                values[known[kind]].append(label)
    if len(values) < 2 or len(members) < 2:
        return ""
    return f"{name}: different {kind}: {'; '.join(f'{v[:SHOWN_DIGITS]} ({some(of)})' for v, of in values.items())}."


def _versions_within_rows(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each version in which the seeds of one row differ."""
    for key in VERSIONS:
        values: dict[str, None] = {}
        names = []
        for row in rows:
            own = dict.fromkeys(plain(one[key])[:SHOWN_DIGITS] for one in row.environments if one.get(key) is not None)
            if len(own) > 1:
                values |= own
                names.append(f"{row.label}, {row.dataset} level {row.level}")
        if values:
            yield f"Seeds of one row differ in {key}: {', '.join(values)} ({some(names)})."
