"""Resources of a job, and the division of cells into jobs."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.suite.facts import is_trained
from benchmark.suite.suite import Resources, Suite
from cluster.site import Site

Item = TypeVar("Item")
GFLOPS = {"cuda": 5000.0, "cpu": 50.0}
"""Default speed of a rank, for estimates."""


@dataclass(frozen=True)
class Shape:
    """Resources of a job: `lanes` groups of `ranks` processes; each group trains one cell at a time."""

    device: Literal["cpu", "cuda"]
    ranks: int
    nodes: int = 1
    lanes: int = 1
    minutes: int | None = None
    """Time limit of the job; None: that of the site."""

    @property
    def processes(self) -> dict[str, Any]:
        """The shape without its time limit, which no process needs to know."""
        return {key: value for key, value in asdict(self).items() if key != "minutes"}

    @property
    def tasks_per_node(self) -> int:
        """Number of processes on each node."""
        return self.ranks * self.lanes // self.nodes

    def gpus_per_node(self, site: Site) -> int:
        """GPUs of the job on each node; lanes of one rank share GPUs."""
        if self.device == "cpu":
            return 0
        return max(1, self.tasks_per_node // (site.cells_per_gpu if self.ranks == 1 else 1))

    def units(self, site: Site) -> int:
        """Number of GPUs of the job, or of ranks if it has no GPU: its cost for each hour."""
        return self.gpus_per_node(site) * self.nodes if self.device == "cuda" else self.ranks * self.lanes

    def gflops(self, site: Site) -> float:
        """Speed of all ranks, for estimates; ranks without a GPU on a site with GPUs have the default."""
        of_site = site.gflops if (self.device == "cuda") == (site.gpus_per_node > 0) else None
        return (of_site or GFLOPS[self.device]) * self.ranks

    def job_seconds(self, cells: Sequence[Cell], seconds: Mapping[str, float]) -> float:
        """Estimated duration of a job with `cells`, from estimates by cell id."""
        times = [seconds[cell.id] for cell in cells]
        return max(sum(times) / self.lanes, max(times, default=0.0))


def shape_of(resources: Resources, site: Site, batch_sizes: Sequence[int]) -> Shape:
    """Resources of a trained cell on `site`. Raises UserError if the site lacks them or a batch cannot be divided."""
    gpus = resources.gpus if resources.gpus is not None else min(resources.ranks, site.gpus_per_node * resources.nodes)
    ranks, nodes = gpus or resources.ranks, resources.nodes
    if ranks % nodes:
        raise UserError(f"resources: {ranks} ranks cannot be spread evenly over {nodes} nodes")
    if gpus and ranks // nodes > site.gpus_per_node:
        raise UserError(f"resources.gpus: {ranks // nodes} on each of {nodes} nodes; the site has {site.gpus_per_node}")
    if indivisible := [size for size in batch_sizes if size % ranks]:
        raise UserError(f"train.batch_size: {indivisible[0]} is not divisible by the {ranks} ranks of a cell")
    if resources.minutes is not None and 60 * resources.minutes <= site.signal_seconds:
        raise UserError(
            f"resources.minutes: {resources.minutes} end before the site's signal_seconds, {site.signal_seconds}"
        )
    lanes = site.cells_per_gpu if ranks == 1 and gpus else 1
    return Shape("cuda" if gpus else "cpu", ranks, nodes, lanes, resources.minutes)


def require_precision(cells: Sequence[Cell], device: str) -> None:
    """Raise UserError if a trained cell needs a precision that `device` lacks."""
    if device == "cpu" and any(cell.train.precision == "tf32" for cell in cells if is_trained(cell)):
        raise UserError("train.precision: tf32 needs a GPU; use fp32 or bf16 on a CPU")


def shapes(suite: Suite, cells: Sequence[Cell], site: Site) -> dict[Shape, list[Cell]]:
    """Cells by the resources that they need. Untrained cells need one rank and no GPU."""
    groups: dict[Shape, list[Cell]] = {}
    trained = replace(suite, cells=tuple(filter(is_trained, cells))).by_resources()
    chosen = {resources: _shape_of_part(part, suite, site) for resources, part in trained.items()}
    for cell in cells:
        shape = chosen[suite.resources_of(cell)] if is_trained(cell) else Shape("cpu", 1)
        groups.setdefault(shape, []).append(cell)
    return groups


def _shape_of_part(part: Suite, suite: Suite, site: Site) -> Shape:
    try:
        shape = shape_of(part.resources, site, [cell.train.batch_size for cell in part.cells])
    except UserError as error:
        if part.resources == suite.resources:
            raise
        raise UserError(f"{part.cells[0].model.name}: {error}") from None
    require_precision(part.cells, shape.device)
    return shape


def affordable_cells(cells: Sequence[Cell], rank_seconds: Mapping[str, float], budget: float) -> list[Cell]:
    """Cells that a budget pays for, in whole blocks, so that models are compared on equal terms.

    A block holds all models on one seed, level and protocol, with all settings of training, since some are of one model
    alone. Blocks are taken seed by seed, each if it fits. `rank_seconds` is the cost by cell id; `budget` has the
    same unit.
    """
    blocks: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):  # stable: otherwise the order of the suite
        block = repr((cell.dataset, cell.protocol, *((cell.seed,) if is_trained(cell) else ())))
        blocks.setdefault(block, []).append(cell)
    chosen: set[str] = set()
    for block_cells in blocks.values():
        cost = sum(rank_seconds[cell.id] for cell in block_cells)
        if cost <= budget:
            budget -= cost
            chosen |= {cell.id for cell in block_cells}
    return [cell for cell in cells if cell.id in chosen]


def pack(cells: Sequence[Cell], seconds: Mapping[str, float], site: Site, shape: Shape) -> list[list[Cell]]:
    """Divide cells into jobs of about `site.job_minutes`; `seconds` are estimates by cell id.

    A job has at most `site.cells_per_job` cells. A cell is never divided, so a job may be longer than the target.
    """
    target = 60.0 * site.job_minutes * shape.lanes
    wanted = round(sum(seconds[cell.id] for cell in cells) / target)
    count = max(1, -(-len(cells) // site.cells_per_job), min(len(cells), wanted))
    return balance(cells, lambda cell: seconds[cell.id], count, site.cells_per_job)


def balance(items: Sequence[Item], work: Callable[[Item], float], shares: int, limit: int) -> list[list[Item]]:
    """Divide items into shares of about equal work: the largest item goes to the share with the least work.

    A share has at most `limit` items. Empty shares are left out.
    """
    divided: list[list[Item]] = [[] for _ in range(shares)]
    least_work = [(0.0, index) for index in range(shares)]
    for item in sorted(items, key=lambda item: -work(item)):
        total, index = heapq.heappop(least_work)
        divided[index].append(item)
        if len(divided[index]) < limit:
            heapq.heappush(least_work, (total + work(item), index))
    return [share for share in divided if share]
