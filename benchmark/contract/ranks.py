"""Check that two ranks train as one process: both make the same steps, and the weights are compared."""

import multiprocessing
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from benchmark import discovery
from benchmark.cell import Training
from benchmark.contract.candidate import CPU, UNTRAINED, Candidate, Violation, noise, require, targets, uniform_draws
from benchmark.errors import error_location
from benchmark.models.layers.norm import BatchNorm
from benchmark.training.distributed import World, join
from benchmark.training.loss import RolledOutLoss

STEPS, BATCH = 2, 4
RATE = 0.05
TOLERANCE = 3e-4
"""Largest error of a weight, relative to the largest change in the model (measured: at most 2e-5)."""

Weights = dict[str, NDArray[Any]]


def two_ranks_equal_one(candidate: Candidate, norm: str = "none") -> str | None:
    """Two steps of gradient descent by two ranks (gloo) that share each batch give the weights of one process.

    With the norm `batch`, the running statistics, too.
    """
    if not candidate.baseline.trained:
        return UNTRAINED
    if norm != "none" and not candidate.has("norm"):
        return "its Config has no norm"
    start = _weights(candidate.build(candidate.task(), norm=norm))
    alone = _train(candidate, World(), norm)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder, "rendezvous")
        plugins = discovery.plugin_paths()
        which = (candidate.name, candidate.kind.name)
        jobs = [_pair().submit(_on_rank, which, plugins, norm, rank, rendezvous) for rank in range(2)]
        try:
            results = [job.result() for job in jobs]
        except BrokenProcessPool:
            _pair.cache_clear()  # the next baseline gets a new pair
            results = ["the process died without an error message"]
    for rank, together in enumerate(results):
        if isinstance(together, str):
            raise Violation(f"on two ranks: {together}")
        change = max(abs(alone[key] - start[key]).max() for key in alone)
        errors = {key: float(abs(together[key] - alone[key]).max() / change) for key in alone}
        worst = max(errors, key=lambda key: errors[key])
        require(
            errors[worst] <= TOLERANCE,
            f"after {STEPS} steps, {worst} on rank {rank} of two differs from one process by {errors[worst]:.1e} of"
            f" the largest change, expected at most {TOLERANCE:.0e}: a loss must be a mean over windows, and random"
            " numbers must come from the draws",
        )
    return None


def two_ranks_equal_one_with_batch_norm(candidate: Candidate) -> str | None:
    """Two ranks equal one with batch normalisation, too, and in its running statistics."""
    return two_ranks_equal_one(candidate, "batch")


@cache
def _pair() -> ProcessPoolExecutor:
    """Two processes for all checks, since each takes seconds to import torch. Not forked: torch has threads."""
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def _on_rank(which: tuple[str, str], plugins: Sequence[Path], norm: str, rank: int, rendezvous: Path) -> Weights | str:
    """Weights after training, or the error as text, since the exception of an author may not be picklable."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the calling process shows its own
    file = None
    try:
        discovery.replace_plugins(plugins)
        candidate = Candidate.named(*which)
        file = candidate.file
        with join(rank, 2, CPU, rendezvous) as world:
            return _train(candidate, world, norm)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
        return error_location(error, file)


def _train(candidate: Candidate, world: World, norm: str) -> Weights:
    """Train as in an epoch, but with SGD: Adam makes a full step from a gradient that is zero up to rounding."""
    task = candidate.task()
    model = candidate.build(task, norm=norm)
    loss = world.wrap(RolledOutLoss(model, Training(), CPU, cache_filters=True))
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    share = BATCH // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    torch.manual_seed(world.rank)
    for step in range(STEPS):
        x, y = noise(task, BATCH, seed=step), targets(task, BATCH, seed=10 + step)
        draws = uniform_draws(BATCH, seed=20 + step)
        optimizer.zero_grad()
        loss(x[mine], y[mine], draws[mine])[0].backward()
        model.before_step(step / STEPS)
        optimizer.step()
    return _weights(model)


def _weights(model: torch.nn.Module) -> Weights:
    """Parameters, and running statistics of batch normalisation."""
    weights = {key: parameter.detach().numpy().copy() for key, parameter in model.named_parameters()}
    for key, layer in model.named_modules():
        if isinstance(layer, BatchNorm):
            weights |= {f"{key}.{name}": buffer.numpy().copy() for name, buffer in layer.named_buffers()}
    return weights
