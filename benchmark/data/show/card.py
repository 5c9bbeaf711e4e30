"""Data card of a dataset in Markdown: what to know before training on it."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmark.cell import Protocol
from benchmark.data import dataset_registry
from benchmark.data.check import PROTOCOLS, shortest_splits
from benchmark.data.dataset import GROUPS, IMPORTED, STORAGE, Dataset
from benchmark.data.show.info import FLOOR_FRAMES, floors, short
from benchmark.data.show.planes import run_labels
from benchmark.markdown import Markdown, escape, table

MOST_ELEMENTS = 8
"""Group elements in the table of errors; of more elements, it has the lowest and the highest error."""
ENDS: Mapping[str, Any] = {"the lowest": min, "the highest": max}
KINDS = {"Exact": True, "Interpolated": False}
Description = Mapping[str, Any]


def card(dataset_name: str, preset: str, descriptions: Sequence[Description], pictures: Mapping[str, PurePath]) -> str:
    """Data card of one dataset and preset, with one level for each of `descriptions` (at least one), in order.

    A description is the result of `info.describe`. `pictures` maps captions to paths relative to the card. Values from
    files are escaped. UserError: unknown dataset.
    """
    dataset = dataset_registry.dataset(dataset_name)
    present = [d["level"] for d in descriptions]
    errors, many_elements = _errors(descriptions)
    environment = Environment(
        loader=PackageLoader("benchmark.data.show"),
        autoescape=False,  # escapes HTML, not Markdown
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        name=dataset_name,
        preset=preset,
        dataset=dataset,
        docstring=Markdown(inspect.getdoc(type(dataset)) or ""),
        group=GROUPS[dataset.group],
        pictures=pictures,
        protocol=Protocol(),
        imported=preset == IMPORTED,
        descriptions=descriptions,
        levels=_levels(descriptions),
        floors=_floors(descriptions),
        no_floors=list(dict.fromkeys(d["no_strict_floor"] for d in descriptions if d["no_strict_floor"])),
        errors=errors,
        many_elements=many_elements,
        parameters=_parameters(descriptions),
        libraries=list(dict.fromkeys(f"{key} {value}" for d in descriptions for key, value in d["libraries"].items())),
        runs=table(["run", "parameters"], enumerate(run_labels(descriptions[-1]["run_parameters"]))),
        checksums=table(["file", "sha256"], ([d["file"], d["checksum"]] for d in descriptions)),
        interpolated=any(not error["exact"] for d in descriptions for error in d["equivariance_errors"]),
        absent=[level for level in dataset.levels if level not in present],
        literal_name=Markdown(dataset_name),
        literal_levels=Markdown(f"[{', '.join(map(str, present))}]"),
        literal=lambda value: Markdown(repr(value)),
        link=lambda path: Markdown(quote(path.as_posix())),
        short=short,
        splits=_splits(dataset, preset, descriptions[0]),
    )


def _levels(descriptions: Sequence[Description]) -> Markdown:
    heads = ["level", "as a number", "runs", "frames", "rms", "max", "error", "relative", "MB"]
    numbers = ("rms", "max", "mean_absolute_error", "mean_relative_error")
    rows = []
    for d in descriptions:
        known = [d["level"], short(d["level_value"]), d["runs"], d["frames"]]
        rows.append([*known, *(short(d[key]) for key in numbers), f"{d['bytes'] / 1e6:.1f}"])
    return table(heads, rows)


def _floors(descriptions: Sequence[Description]) -> Markdown:
    """Table of the strict floor on each grid; empty if no level has one."""
    on_grid = STORAGE[descriptions[0]["kind"]].on_grid
    heads = ["level", *(["grid"] if on_grid else []), *(f"over {frames} frames" for frames in FLOOR_FRAMES)]
    rows = [
        [d["level"], *([grid] if on_grid else []), *floors(d, grid)]
        for d in descriptions
        for grid in (d["strict_floor"] or {"by_step": ()})["by_step"]
    ]
    return table(heads, rows) if rows else Markdown()


def _errors(descriptions: Sequence[Description]) -> tuple[Markdown, str]:
    """Table of the absolute errors, and the names of the elements if they are too many for the table."""
    by_level = [{error["element"]: error for error in d["equivariance_errors"]} for d in descriptions]
    exact = {name: error["exact"] for errors in by_level for name, error in errors.items()}
    heads = [f"level {d['level']}" for d in descriptions]
    if not exact:
        return Markdown(), ""
    if len(exact) <= MOST_ELEMENTS:
        rows = [
            [name, "exact" if exact[name] else "interpolated"]
            + [short(errors[name]["absolute"]) if name in errors else "-" for errors in by_level]
            for name in exact
        ]
        return table(["group element", "its action", *heads], rows), ""
    known = [[error["absolute"] for error in errors.values() if error["absolute"] is not None] for errors in by_level]
    ends = [[name, *(short(end(values, default=None)) for values in known)] for name, end in ENDS.items()]
    kinds = {kind: [name for name in exact if exact[name] == is_exact] for kind, is_exact in KINDS.items()}
    named = [f"{kind}: {', '.join(names)}." for kind, names in kinds.items() if names]
    return table(["of all elements", *heads], ends), " ".join(named)


def _splits(dataset: Dataset, preset: str, description: Description) -> Iterator[tuple[str, str, Markdown]]:
    """Name of each protocol, the reason why its default windows do not fit, or "", and a table of its splits."""
    for protocol in PROTOCOLS:
        splits = dict(description["splits"][protocol.name])
        reason = splits.pop("reason", "")
        if reason:
            shortest = shortest_splits(dataset, protocol, preset)
            splits = {name: {"runs": split.runs, "windows": 0} for name, split in shortest.items()}
        rows = ([name, ranges(split["runs"]), split["windows"]] for name, split in splits.items())
        yield protocol.name, reason, table(["split", "runs", "windows"], rows) if splits else Markdown()


def ranges(numbers: Iterable[int]) -> str:
    """Integers as ranges.

    >>> ranges([7, 0, 1, 2])
    '0-2, 7'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def _parameters(descriptions: Sequence[Description]) -> Markdown:
    """Table of the parameters of all levels; a parameter that differs has all its values."""
    values: dict[str, dict[str, None]] = {}
    for d in descriptions:
        for key, value in _leaves(d["parameters"]):
            values.setdefault(key, {})[value] = None
    return table(["parameter", "value"], ([key, " or ".join(texts)] for key, texts in values.items()))


def _leaves(document: Description, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values of a JSON object by their dotted names: `box.size`, `64.0`."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(_rounded(value))


def _rounded(value: Any) -> Any:
    """Numbers without the last digits of a product: 0.16, not 0.16000000000000003."""
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value
