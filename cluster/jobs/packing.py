"""Divides cells into jobs: small ones share a job, and no job is much longer than it has to be."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.suite.suite import Resources, Suite
from benchmark.training.experiment import is_trained
from cluster.site import Site

GFLOPS = {"cuda": 5000.0, "cpu": 50.0}
"""What a rank sustains, roughly, where the site does not say."""


@dataclass(frozen=True)
class Shape:
    """What a job asks for. `ranks` train a cell together, `lanes` such groups work side by side."""

    device: Literal["cpu", "cuda"]
    ranks: int
    nodes: int = 1
    lanes: int = 1

    @property
    def tasks_per_node(self) -> int:
        return self.ranks * self.lanes // self.nodes

    def gpus_per_node(self, site: Site) -> int:
        """Lanes of one rank share GPUs."""
        if self.device == "cpu":
            return 0
        return max(1, self.tasks_per_node // (site.cells_per_gpu if self.ranks == 1 else 1))

    def units(self, site: Site) -> int:
        """What a job is charged for, each hour that it runs: GPUs, or ranks where it has none."""
        return self.gpus_per_node(site) * self.nodes if self.device == "cuda" else self.ranks * self.lanes

    def job_seconds(self, cells: Sequence[Cell], seconds: Mapping[str, float]) -> float:
        """How long a job with `cells` takes, by the estimates for each: lanes take the next cell as they get free."""
        each = [seconds[cell.id] for cell in cells]
        return max(sum(each) / self.lanes, max(each, default=0.0))


def shape_of(resources: Resources, site: Site, batch_sizes: Sequence[int]) -> Shape:
    """Where the cells of a suite run on `site`. UserError: it does not have that, or a batch cannot be shared."""
    gpus = resources.gpus if resources.gpus is not None else min(resources.ranks, site.gpus_per_node * resources.nodes)
    ranks, nodes = gpus or resources.ranks, resources.nodes
    if ranks % nodes:
        raise UserError(f"resources: {ranks} ranks cannot be spread evenly over {nodes} nodes")
    if gpus and ranks // nodes > site.gpus_per_node:
        each = ranks // nodes
        raise UserError(f"resources.gpus: {gpus} on {nodes} nodes is {each} each; the site has {site.gpus_per_node}")
    if wrong := [size for size in batch_sizes if size % ranks]:
        raise UserError(f"train.batch_size: {wrong[0]} is not divisible by the {ranks} ranks of a cell")
    lanes = site.cells_per_gpu if ranks == 1 and gpus else 1
    return Shape("cuda" if gpus else "cpu", ranks, nodes, lanes)


def require_precision(cells: Sequence[Cell], device: str) -> None:
    """UserError: a trained cell asks for a precision that `device` does not have."""
    if device == "cpu" and any(cell.train.precision == "tf32" for cell in cells if is_trained(cell)):
        raise UserError("train.precision: tf32 needs a GPU; use fp32 or bf16 on a CPU")


def shapes(suite: Suite, cells: Sequence[Cell], site: Site) -> dict[Shape, list[Cell]]:
    """The cells by what they need: what is not trained needs one rank and no GPU."""
    groups: dict[Shape, list[Cell]] = {}
    batch_sizes = [cell.train.batch_size for cell in cells if is_trained(cell)]
    trained = shape_of(suite.resources, site, batch_sizes)
    require_precision(cells, trained.device)
    for cell in cells:
        shape = trained if is_trained(cell) else Shape("cpu", 1)
        groups.setdefault(shape, []).append(cell)
    return groups


def affordable_cells(cells: Sequence[Cell], rank_seconds: Mapping[str, float], budget: float) -> list[Cell]:
    """Those of `cells` that `budget` rank-seconds pay for, chosen fairly: what is compared is run whole or not at all.

    A block is one seed on one level under one protocol and training, for all models; blocks are taken seed by seed,
    each if it still fits.
    """
    blocks: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):  # stable: otherwise the order of the suite
        block = (
            (cell.seed, cell.dataset, cell.protocol, cell.train) if is_trained(cell) else (cell.dataset, cell.protocol)
        )
        blocks.setdefault(repr(block), []).append(cell)
    chosen: set[str] = set()
    for block_cells in blocks.values():
        cost = sum(rank_seconds[cell.id] for cell in block_cells)
        if cost <= budget:
            budget -= cost
            chosen |= {cell.id for cell in block_cells}
    return [cell for cell in cells if cell.id in chosen]


def pack(cells: Sequence[Cell], seconds: Mapping[str, float], site: Site, shape: Shape) -> list[list[Cell]]:
    """Jobs of about `site.job_minutes`, the longest cell first; a cell longer than that has a job of its own.

    `seconds` is the estimate for each cell by id. As few jobs as that takes, each with about the same work, and no
    more cells in one than `site.cells_per_job`.
    """
    if not cells:
        return []
    target = 60.0 * site.job_minutes * shape.lanes
    wanted = round(sum(seconds[cell.id] for cell in cells) / target)
    count = max(1, -(-len(cells) // site.cells_per_job), min(len(cells), wanted))
    jobs: list[list[Cell]] = [[] for _ in range(count)]
    least_work = [(0.0, index) for index in range(count)]
    for cell in sorted(cells, key=lambda cell: -seconds[cell.id]):
        work, index = heapq.heappop(least_work)
        jobs[index].append(cell)
        if len(jobs[index]) < site.cells_per_job:
            heapq.heappush(least_work, (work + seconds[cell.id], index))
    return [job for job in jobs if job]
