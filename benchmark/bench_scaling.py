"""How many ranks pay off for one cell: a model of what they compute and what they send each other.

The ranks share a global batch, so that each computes less the more there are, and then average their gradients by a
ring all-reduce. That may go on beside the last part of the backward pass:

    step(n) = fixed + window * batch / n + max(0, ring(n) - overlap * (fixed + window * batch / n))
    ring(n) = 2 (n - 1) / n * bytes / bandwidth + buckets * 2 (n - 1) * latency

Nothing is measured here: `benchmark.bench_ddp` puts in what it measured, or asks what would be if a rank sustained so
many operations a second in every part of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import costs, registry
from .baseline import Baseline
from .cell import Cell

LEAST_EFFICIENCY = 0.7
FLOAT_BYTES = 4
TRAINING = 3
"""Forward and backward together, in forward passes."""
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Bytes that DistributedDataParallel sends at once, unless told otherwise: the first gradients, and then the others."""


@dataclass(frozen=True)
class Link:
    """What joins a rank to the next one of the ring; bytes in a second one way, seconds of each of its hops."""

    name: str
    bandwidth: float
    latency: float


NOMINAL = (
    Link("NVLink 4", 450e9, 3.4e-6),
    Link("PCIe 4 x16", 31.5e9, 5.7e-6),
    Link("100 Gb/s Ethernet", 12.5e9, 14e-6),
    Link("25 Gb/s Ethernet", 3.125e9, 14e-6),
)
"""Bandwidths as vendors state them, which no program reaches: NVLink from NVIDIA's data sheet of the H100 (900 GB/s,
both ways together), PCIe from its specification (16 lanes of 16 GT/s, 128 bits of 130), Ethernet from its name.
Latencies are those that NCCL itself reckons with (src/graph/tuning.cc, ring, protocol Simple: NVLink, PCI, network)."""


@dataclass(frozen=True)
class Step:
    """A step of the optimiser: seconds that it takes on a rank however few the windows (launches, the optimiser),
    seconds of each window, windows in the global batch, bytes of the gradients, and the part of the computing during
    which gradients are sent already."""

    fixed: float
    window: float
    batch: int
    gradient_bytes: int
    overlap: float


def ring_seconds(ranks: int, size_bytes: int, link: Link) -> float:
    """To add up `size_bytes` over a ring of ranks, in as many buckets as DistributedDataParallel makes of them."""
    buckets = 1 + math.ceil(max(0, size_bytes - FIRST_BUCKET) / BUCKET)
    hops = 2 * (ranks - 1)
    return hops / ranks * size_bytes / link.bandwidth + buckets * hops * link.latency


def step_seconds(ranks: int, step: Step, link: Link) -> float:
    """A step of the whole batch by so many ranks."""
    computing = step.fixed + step.window * step.batch / ranks
    return computing + max(0.0, ring_seconds(ranks, step.gradient_bytes, link) - step.overlap * computing)


def efficiency(ranks: int, step: Step, link: Link) -> float:
    """How many times as fast as one rank, over how many ranks."""
    return step_seconds(1, step, link) / (ranks * step_seconds(ranks, step, link))


def most_ranks(step: Step, link: Link, least: float = LEAST_EFFICIENCY) -> int:
    """The most ranks, each with the same number of windows, that are at least so efficient."""
    shares = (ranks for ranks in range(1, step.batch + 1) if step.batch % ranks == 0)
    return max(ranks for ranks in shares if efficiency(ranks, step, link) >= least)


def overlap_of(rolled_out_steps: int) -> float:
    """The part of the computing beside which gradients can be sent, at most.

    All rolled-out steps share the weights, so no gradient is whole before the backward pass reaches the first of them;
    a backward pass is two thirds of the arithmetic.
    """
    return 2 / 3 / rolled_out_steps


def step_of(whole: float, half: float, batch: int, gradient_bytes: int, overlap: float) -> Step:
    """A step as one rank took it for the whole batch and for half of it (rounded down), in seconds."""
    window = min(max(0.0, (whole - half) / (batch - batch // 2)), whole / batch)
    return Step(whole - window * batch, window, batch, gradient_bytes, overlap)


def link_of(ranks: int, size_bytes: int, number: float, gradients: float) -> Link:
    """The link over which ranks added up a number, and gradients of so many bytes at once, in so many seconds."""
    hops = 2 * (ranks - 1)
    sending = gradients - number
    return Link("measured", hops / ranks * size_bytes / sending if sending > 0 else math.inf, number / hops)


def build(cell: Cell) -> Baseline:
    """The cell's model on the CPU."""
    model_class, config = registry.configured(cell.model)
    return costs.built(model_class, config, costs.task_of(cell.dataset, cell.protocol))


def payoff(suite: str, cell: Cell, tflops: float, fixed: Sequence[float]) -> dict[str, Any]:
    """How many ranks would pay off on each nominal link, if a rank sustained so many TFLOP/s; for each of the seconds
    that may be `fixed` in a step."""
    model, batch, steps = build(cell), cell.train.batch_size, cell.protocol.train_steps
    flops = TRAINING * steps * costs.flops(model)
    step = Step(0.0, flops / (1e12 * tflops), batch, FLOAT_BYTES * costs.parameters(model), overlap_of(steps))
    return {
        **{"suite": suite, "model": cell.model.name, "batch": batch, "gradient_bytes": step.gradient_bytes},
        **{"step_flops": flops * batch, "tflops": tflops, "window_s": step.window, "fixed_s": list(fixed)},
        "ranks": {link.name: [most_ranks(replace(step, fixed=one), link) for one in fixed] for link in NOMINAL},
    }


def payoff_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each cell and what a rank sustains; ranks are those of each fixed time, as `16 / 4`."""
    headings = ("suite", "model", "batch", "gradients", "a step", "if a rank sustains", "a step computes")
    lines = []
    for row in rows:
        named = (row["suite"], row["model"], row["batch"], mib(row["gradient_bytes"]))
        computed = (f"{row['step_flops'] / 1e12:.3g} TFLOP", f"{row['tflops']:g} TFLOP/s")
        ranks = (" / ".join(map(str, most)) for most in row["ranks"].values())
        lines.append((*named, *computed, ms(row["window_s"] * row["batch"]), *ranks))
    return table((*headings, *(link.name for link in NOMINAL)), lines)


def table(headings: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    rows = (headings, ["---"] * len(headings), *lines)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"
