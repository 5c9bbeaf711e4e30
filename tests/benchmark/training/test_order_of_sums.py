"""Networks whose gradients a GPU adds up in any order, so that a resumed training may differ in the last digit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.cell import Training
from benchmark.contract.candidate import CPU, Candidate, noise, targets, uniform_draws
from benchmark.discovery import ROOT
from benchmark.kinds.kinds import FIELD
from benchmark.models import model_registry
from benchmark.training.loss import RolledOutLoss

IN_ANY_ORDER = (
    *("adaptive_avg_pool", "adaptive_max_pool", "avg_pool3d_backward", "fractional_max_pool", "max_unpool"),
    *("grid_sampler", "upsample", "reflection_pad", "replication_pad", "bincount", "cumsum", "histc", "kthvalue"),
    *("index_put", "put_", "scatter", "embedding_dense_backward", "ctc_loss", "nll_loss2d", "median"),
)
"""Beginnings of kernels that use atomic additions, from the page of `torch.use_deterministic_algorithms`."""


class _Kernels(TorchDispatchMode):
    """Names of the kernels that add in any order. Two numbers may be added in any."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        if name.startswith("index_add"):
            any_order = int(args[2].bincount().max()) > 2
        elif name == "max_pool2d_with_indices_backward":
            any_order = any(step < size for size, step in zip(args[2], args[3] or args[2], strict=True))
        else:
            any_order = name.startswith(IN_ANY_ORDER)
        if any_order:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("periodic", [False, True])
def test_only_the_networks_that_the_docs_name_add_in_any_order(periodic: bool) -> None:
    kernels: dict[str, set[str]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other at every small tensor
    for name in model_registry.model_names():
        candidate = Candidate.named(name)
        if not candidate.baseline.trained:
            continue
        if periodic and candidate.kind is not FIELD:
            continue
        tasks = candidate.kind.tasks
        task = candidate.task([replace(task, periodic=True) for task in tasks] if periodic else tasks)
        loss = RolledOutLoss(candidate.build(task), Training(), CPU, cache_filters=True)
        with _Kernels() as mode:
            loss(noise(task), targets(task), uniform_draws(2))[0].backward()
        if mode.names:
            kernels[name] = mode.names
    torch.set_num_threads(threads)
    pooling = {"adaptive_avg_pool2d", "adaptive_avg_pool2d_backward"}
    named = {f"lift_{group}": pooling for group in ("rotation", "scale", "translation")}
    named |= {f"relaxed_steerable_{group}": {"index_add"} for group in ("rotation", "scale")}
    if not periodic:
        named |= {name: {"index_add"} for name in ("egnn", "relaxed_egnn", "tfn", "relaxed_tfn")}
    assert kernels == named
    docs = " ".join((ROOT / "docs/clusters.md").read_text("utf-8").split())
    assert "`lift_*` (`AdaptiveAvgPool2d`), the penalty of the `relaxed_steerable_*` models" in docs
    assert "`egnn`, `relaxed_egnn`, `tfn` and `relaxed_tfn` (`index_select`)" in docs
