"""Notes of a board: where strict networks are not strict, and which models differ from their paper."""

from collections.abc import Iterable

from benchmark.cell import GroupName
from benchmark.data.dataset import GROUPS, STORAGE, AnyPreset, Preset
from benchmark.errors import UserError
from benchmark.suite.facts import dataset_facts, model_facts
from results.board.quantities import FIELD, METRICS

HALF_A_CELL = (
    "strict networks are not strict here. They read both velocity components as if these lay at one place, but on this"
    " grid the places are half a cell apart: an untrained e2cnn has an equivariance error of 0.6 of the change, and"
    " round-off on `grid: centered`"
)
HANDEDNESS = (
    "networks see the published arrays, whose turn is not that of the flow: strict networks keep the turn of opposite"
    " handedness (docs/handedness.md)"
)
ZOOMS = (
    "no zoom is exact on a grid, and networks have a finite range of scales. Compare the equivariance error within"
    " scales with its floor (docs/scale.md)"
)
MARK = "†"
"""Stands after the label of a model that differs from its paper."""


def group_of(dataset: str) -> GroupName | None:
    """Symmetry of level 0 of a dataset; None if the dataset is gone."""
    try:
        return dataset_facts(dataset).group
    except UserError:
        return None


def storage_of(dataset: str) -> type[AnyPreset]:
    """Words for the states of a dataset; those of fields if the dataset is gone."""
    try:
        return STORAGE[dataset_facts(dataset).kind]
    except UserError:
        return Preset


def size_of(dataset: str, preset: str, grid: str) -> str:
    """Preset, and the grid of a state that lies on one: `small, centered`."""
    return f"{preset}, {grid}" if storage_of(dataset).on_grid else preset


def unit_of(metric: str, datasets: Iterable[str]) -> str:
    """Unit of a metric on these datasets, in which an error has that of their states."""
    unit = METRICS[metric].unit
    own = {storage_of(dataset).error_unit for dataset in datasets} if unit == FIELD else {unit}
    return own.pop() if len(own) == 1 else "data units"


def group_words(dataset: str) -> str:
    """Symmetry of level 0 in words; empty if the dataset is gone."""
    return GROUPS.get(group_of(dataset) or "", "")


def symmetry_notes(panels: Iterable[tuple[str, str, str]]) -> list[str]:
    """Sentences on the symmetry errors of each (dataset, preset, grid), in their order."""
    notes = []
    for dataset, preset, grid in dict.fromkeys(panels):
        group = group_of(dataset)
        place = f"{dataset} ({size_of(dataset, preset, grid)})"
        if grid.endswith("published layout") and group == "C4":
            notes.append(f"{place}: {HANDEDNESS}.")
        if grid.startswith("staggered") and group in ("C4", "scale"):
            notes.append(f"{place}: {HALF_A_CELL}.")
        if group == "scale":
            notes.append(f"{place}: {ZOOMS}.")
    return notes


def difference_from_paper(model: str) -> str:
    """Sentence that the baseline declares; empty if there is none, or the baseline is gone or broken."""
    try:
        return model_facts(model).differs
    except UserError:
        return ""


def paper_notes(models: Iterable[str]) -> list[str]:
    """A note for each of `models` that differs from its paper."""
    differences = {model: difference_from_paper(model) for model in dict.fromkeys(models)}
    return [f"{MARK} {model} differs from its paper: {text}" for model, text in differences.items() if text]
