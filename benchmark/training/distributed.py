"""Ranks that train one cell together. Only this file uses torch.distributed; the others use a `World`."""

import ipaddress
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
from benchmark.models.layers.norm import BatchNorm

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """One rank of a training, and its communication with the others. By default a single process on the CPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None
    """Process group of the CPUs (gloo) if the default group connects GPUs (nccl), else None."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, value: float) -> float:
        """Maximum over ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is True on any rank. Through the CPUs, so that no rank waits for its GPU."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag))
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.control)
        return bool(tensor)

    def gather(self, value: float) -> list[float]:
        """Values of all ranks, on every rank."""
        if self.size == 1:
            return [value]
        values = torch.zeros(self.size, dtype=torch.float64)
        values[self.rank] = value
        dist.all_reduce(values, group=self.control)
        return [float(one) for one in values]

    def keeping_gradients(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context in which backward passes add to the gradients of `module` and ranks do not average them yet."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make ranks average the gradients of `module` and share the statistics of its batch normalisation.

        A single rank gets the module itself.
        """
        if self.size == 1:
            return module
        for layer in module.modules():
            if isinstance(layer, BatchNorm):
                layer.reduce = _SumOverRanks.apply
        on_gpu = self.device.type == "cuda"
        # Otherwise DDP rebuilds its buckets after the first step, and three or more ranks add up gradients in another
        # order: a training resumed from its checkpoint would differ in the last digit.
        keep_order = self.size > 2 and not on_gpu
        with warnings.catch_warnings():
            # torch 2.13 has a new name for it, which 2.6 does not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                module,
                [self.device] if on_gpu else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=keep_order,
            )


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum of the gradients of all ranks, each of which reads the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def is_communication_error(error: BaseException) -> bool:
    """Whether ranks have lost their connection, which gloo reports as a plain RuntimeError."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


@contextmanager
def join(
    rank: int, size: int, device: torch.device, rendezvous: Path, nodes: int = 1, backend: str | None = None
) -> Iterator[World]:
    """Connect to the other ranks, on one or several `nodes`; by default, by nccl on GPUs and gloo on CPUs.

    `rendezvous` is a new file on a disk that all ranks share; rank 0 writes its address there. MachineError, on all
    ranks: two of them would share a GPU. On those of one host: a network interface is missing, or other hosts cannot
    reach the address of its name.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank, size, device)
        return
    if nodes == 1:  # gloo must not depend on what the host's name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if problem := network_problem():
        raise MachineError(problem)
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    store = _listen(rendezvous, size, nodes) if rank == 0 else _connect(rendezvous, size)
    if backend == "nccl":
        _require_own_gpus(store, rank, size, f"{torch.cuda.get_device_properties(device).uuid}")
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    ended = False
    try:
        yield World(rank, size, device, dist.new_group(backend="gloo") if backend == "nccl" else None)
        ended = True
    finally:
        if ended or backend == "gloo":  # after an error, nccl would wait for ranks that have gone
            dist.destroy_process_group()


def _require_own_gpus(store: dist.Store, rank: int, size: int, gpu: str) -> None:
    """Raise MachineError on every rank if two ranks have the same `gpu`, for which nccl would only report an error."""
    store.set(f"gpu-{rank}", gpu)
    gpus = [store.get(f"gpu-{other}").decode() for other in range(size)]
    if len(set(gpus)) < size:
        raise MachineError(f"{size} ranks got {len(set(gpus))} GPUs ({', '.join(gpus)}), and each needs one of its own")


def network_problem() -> str:
    """Reason why other hosts cannot connect to this one; empty if they can.

    gloo gives them the address of the interface in GLOO_SOCKET_IFNAME, or else of this host's name. It would wait
    several times COLLECTIVE_TIMEOUT for an answer.
    """
    host, present = socket.gethostname(), [name for _, name in socket.if_nameindex()]
    if names := os.environ.get("GLOO_SOCKET_IFNAME"):
        missing = [name for name in names.split(",") if name and name not in present]
        has = f"it has {', '.join(present)}"
        return f"GLOO_SOCKET_IFNAME: {host} has no network interface {missing[0]} ({has})" if missing else ""
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        address = "127.0.0.1"  # as in gloo
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return ""
    others = ", ".join(name for name in present if not name.startswith("lo"))
    return (
        f"the name {host} stands for {address}, where no other host reaches it; correct /etc/hosts, or set"
        f" GLOO_SOCKET_IFNAME in `setup` of the site file (interfaces: {others})"
    )


def _listen(rendezvous: Path, size: int, nodes: int) -> dist.TCPStore:
    """Store of rank 0, on a free port, so that jobs on the same node do not collide."""
    host = "127.0.0.1" if nodes == 1 else socket.gethostname()
    store = dist.TCPStore(host, 0, size, is_master=True, timeout=COLLECTIVE_TIMEOUT, wait_for_workers=False)
    write_json(rendezvous, {"host": host, "port": store.port})
    return store


def _connect(rendezvous: Path, size: int) -> dist.TCPStore:
    deadline = time.monotonic() + COLLECTIVE_TIMEOUT.total_seconds()
    while not rendezvous.exists():
        if time.monotonic() > deadline:
            raise MachineError(f"{rendezvous}: rank 0 has not come; is this disk the same on all nodes?")
        time.sleep(0.1)
        rendezvous.parent.stat()  # refreshes the cached listing of a network disk
    address = json.loads(rendezvous.read_text(encoding="utf-8"))
    return dist.TCPStore(address["host"], address["port"], size, is_master=False, timeout=COLLECTIVE_TIMEOUT)
