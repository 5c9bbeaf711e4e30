"""Ranks: the only file that knows torch.distributed. Everything else sees a `World`."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmark.errors import MachineError
from benchmark.files import write_json

COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among those that train one cell together."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """Where ranks talk through their CPUs; None is the group of all."""

    @property
    def is_main(self) -> bool:
        """Rank 0, which alone writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, value: float) -> float:
        """The largest over ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def any(self, flag: bool) -> bool:
        """Whether a rank says so. Through the CPU, so that work on GPUs is not waited for."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag))
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.control)
        return bool(tensor)

    def gather(self, value: float) -> list[float]:
        """The value of each rank, on all of them."""
        if self.size == 1:
            return [value]
        values = torch.zeros(self.size, dtype=torch.float64)
        values[self.rank] = value
        dist.all_reduce(values, group=self.control)
        return [float(one) for one in values]

    def keeping_gradients(self, module: nn.Module) -> AbstractContextManager[None]:
        """Backward passes of a wrapped `module` within add to its gradients, and ranks do not average them yet."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def wrap(self, module: nn.Module, **settings: Any) -> nn.Module:
        """Average the gradients of `module` over ranks; alone, the module itself.

        `settings` of DistributedDataParallel stand in for ours, for those who measure them.
        """
        if self.size == 1:
            return module
        on_gpu = self.device.type == "cuda"
        # Else the gradients are laid out anew after the first step, and three ranks or more add them up in another
        # order: a training that goes on from its checkpoint would differ in the last digit.
        keep_order = self.size > 2 and not on_gpu
        with warnings.catch_warnings():
            # torch 2.13 would have another name for it, which 2.6 does not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            ours = {"gradient_as_bucket_view": True, "find_unused_parameters": keep_order}
            return DistributedDataParallel(
                module, [self.device] if on_gpu else None, broadcast_buffers=False, **{**ours, **settings}
            )


def is_communication_error(error: BaseException) -> bool:
    """Whether ranks have lost each other; gloo says so in plain RuntimeErrors."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def single() -> World:
    """One process on the CPU."""
    return World(0, 1, torch.device("cpu"))


@contextmanager
def join(rank: int, size: int, device: torch.device, rendezvous: Path, nodes: int = 1) -> Iterator[World]:
    """Meet the other ranks, which may be on several `nodes`; nccl on GPUs, gloo on CPUs.

    `rendezvous` is a file on a disk that all see, which does not exist before: in it rank 0 says where it listens. The
    process group is destroyed at the end, also after an error.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank, size, device)
        return
    if nodes == 1:  # gloo must not depend on what the host's name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = _listen(rendezvous, size, nodes) if rank == 0 else _meet(rendezvous, size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield World(rank, size, device, dist.new_group(backend="gloo") if backend == "nccl" else None)
    finally:
        dist.destroy_process_group()


def _listen(rendezvous: Path, size: int, nodes: int) -> dist.TCPStore:
    """On a port that is free, so that jobs beside this one do not matter."""
    host = "127.0.0.1" if nodes == 1 else socket.gethostname()
    store = dist.TCPStore(host, 0, size, is_master=True, timeout=COLLECTIVE_TIMEOUT, wait_for_workers=False)
    write_json(rendezvous, {"host": host, "port": store.port})
    return store


def _meet(rendezvous: Path, size: int) -> dist.TCPStore:
    deadline = time.monotonic() + COLLECTIVE_TIMEOUT.total_seconds()
    while not rendezvous.exists():
        if time.monotonic() > deadline:
            raise MachineError(f"{rendezvous}: rank 0 has not come; is this disk the same on all nodes?")
        time.sleep(0.1)
        rendezvous.parent.stat()  # a network disk may go on saying that it is not there
    there = json.loads(rendezvous.read_text(encoding="utf-8"))
    return dist.TCPStore(there["host"], there["port"], size, is_master=False, timeout=COLLECTIVE_TIMEOUT)
