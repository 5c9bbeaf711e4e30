"""Published figures, to stand beside ours: those alone that a second source confirms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from results.board.row import Row

WANG = "Wang, Walters, Yu 2022 (arXiv 2201.11969)"
AGAIN = "an independent reproduction of it"
REMUL = "REMUL (arXiv 2410.17878)"


@dataclass(frozen=True)
class Published:
    """RMSE over 20 rolled-out steps, as printed: mean and, where given, the spread over seeds."""

    dataset: str
    model: str
    name: str
    future: str
    domain: str
    source: str


FIGURES = (
    Published(
        "smoke_rotation", "relaxed_group_rotation", "relaxed group convolution", "0.82 ± 0.01", "0.73 ± 0.02", WANG
    ),
    Published("smoke_rotation", "relaxed_group_rotation", "relaxed group convolution", "0.88", "0.90", AGAIN),
    Published("smoke_rotation", "relaxed_steerable_rotation", "relaxed steerable", "0.80 ± 0.00", "0.67 ± 0.01", WANG),
    Published("smoke_rotation", "relaxed_steerable_rotation", "relaxed steerable", "0.82", "0.67", AGAIN),
    Published("jetflow", "e2cnn", "e2cnn", "0.21 ± 0.02", "0.27 ± 0.03", WANG),
    Published("jetflow", "relaxed_steerable_rotation", "relaxed steerable", "0.17 ± 0.01", "0.16 ± 0.01", WANG),
    Published("jetflow", "remul", "REMUL on a CNN", "0.16", "0.18", REMUL),
)
LEVEL = "paper"
PRESETS = ("paper", "imported")


@dataclass(frozen=True)
class Beside:
    """A published figure and our row of the same model, None where the board has none."""

    published: Published
    ours: Row | None
    difference: str


def beside(rows: Sequence[Row]) -> list[Beside]:
    """The published figures on the dataset of `rows`, each with every row of ours of that model at the same setting."""
    there = [row for row in rows if row.level == LEVEL and row.preset in PRESETS]
    found = []
    for published in FIGURES:
        if any(row.dataset == published.dataset for row in there):
            ours = [row for row in there if (row.dataset, row.model) == (published.dataset, published.model)]
            found += [Beside(published, row, _difference(row)) for row in ours] or [Beside(published, None, "")]
    return found


def _difference(row: Row) -> str:
    """What keeps the two from being compared digit by digit."""
    told = [] if row.protocol["name"] == "icml2022" else [f"our protocol is {row.protocol['name']}"]
    if row.protocol["test_steps"] != 20:
        told.append(f"{row.protocol['test_steps']} rolled-out steps and not 20")
    if row.grid != "staggered" and row.dataset.startswith("smoke"):
        told.append("at cell centres")
    return "; ".join(told)
