"""Published results to show beside ours; only those that a second source confirms."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.cell import Protocol
from benchmark.suite.labels import plain
from results.board.row import Row

WANG = "Wang, Walters, Yu 2022 (arXiv 2201.11969)"
AGAIN = "an independent reproduction of it"
REMUL = "REMUL (arXiv 2410.17878)"


@dataclass(frozen=True)
class Published:
    """RMSE over 20 rolled-out steps as printed: mean and, if given, the spread over seeds."""

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
    """A published result and our row of the same model, None if the board has none."""

    published: Published
    ours: Row | None
    difference: str


def beside(rows: Sequence[Row]) -> list[Beside]:
    """Published results on the dataset of `rows`, each with every row of that model at the published level."""
    comparable = [row for row in rows if row.level == LEVEL and row.preset in PRESETS]
    results = []
    for published in FIGURES:
        if any(row.dataset == published.dataset for row in comparable):
            ours = [row for row in comparable if (row.dataset, row.model) == (published.dataset, published.model)]
            results += [Beside(published, row, _difference(row)) for row in ours] or [Beside(published, None, "")]
    return results


def _difference(row: Row) -> str:
    """Differences from the published protocol, loss and grid."""
    published = Protocol(name="icml2022").model_dump()
    texts = [
        f"{'protocol' if key == 'name' else key} {plain(row.protocol.get(key))} instead of {plain(published.get(key))}"
        for key in dict.fromkeys((*published, *row.protocol))
        if row.protocol.get(key) != published.get(key)
    ]
    if (steps := row.train.get("rollout_steps")) is not None:
        texts.append(f"{steps} steps in the loss")
    if row.dataset.startswith("smoke"):
        if not row.grid.startswith("staggered"):
            texts.append("at cell centres")
        if not row.grid.endswith("published layout"):
            texts.append("in the physical layout")
    return "; ".join(texts)
