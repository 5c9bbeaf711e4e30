"""The right to run a cell: one holder at a time, on any machine that shares the disk.

Holders are numbered. Whoever creates `lease-<n>.json` first holds the cell, and goes on touching the file; a lease
that is released, or was not touched for a while, is followed by number n + 1, which is created exclusively, too. So
two can never take over the same dead holder, and one that comes back from the dead sees that it has a successor. No
lock of the operating system is needed, which network disks do not all have.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import psutil

from benchmark.errors import MachineError
from benchmark.files import write_json

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
"""A holder that has not touched its lease for so long is dead, or cut off."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease; `job` is the scheduler's number, if there is one, `restart` how often it had been requeued."""

    host: str
    pid: int
    started: float
    """When the process began, in seconds since 1970: its number is given to another process one day."""
    job: str = ""
    released: bool = False
    restart: int = 0
    processes: str = ""
    """Where `pid` means something: the running kernel and its namespace of process numbers; empty outside Linux."""

    @classmethod
    def this_process(cls) -> Holder:
        """Ourselves."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            _started(os.getpid()),
            os.environ.get("SLURM_JOB_ID", ""),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            processes=_processes(),
        )

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; False where that cannot be known.

        Another container on this machine has process numbers of its own, and another machine may have this one's name.
        """
        if self.host != socket.gethostname() or self.processes != _processes():
            return False
        clock_may_be_set = 2.0
        return abs(_started(self.pid) - self.started) > clock_may_be_set


UNREADABLE = Holder("a machine unknown", 0, 0.0)
"""Stands for the holder of a lease whose file says nothing, which may be the disk's fault."""


class Lease:
    """A lease that this process holds; made by `acquire`."""

    def __init__(self, path: Path, number: int, holder: Holder) -> None:
        self.path, self.number, self.holder = path, number, holder
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether there is a successor: nothing may be written any more. Looks on the disk."""
        if not self._lost.is_set() and _highest(self.path.parent) > self.number:
            self._lost.set()
        return self._lost.is_set()

    @property
    def known_lost(self) -> bool:
        """Whether a successor has been seen, by `kept` with its last beat for instance; costs nothing."""
        return self._lost.is_set()

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Touch the lease until the end, then release it."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                with suppress(OSError):  # a disk that is away for a moment; if for long, the lease is lost
                    if self.lost:
                        return
                    os.utime(self.path)

        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            if not self.lost:
                write_json(self.path, asdict(self.holder) | {"released": True})


def acquire(folder: Path) -> Lease | None:
    """The lease of the cell in `folder`, which exists; None where a live process holds it. MachineError: no writing."""
    number, holder = current(folder)
    if holder is not None and not holder.released and not holder.is_gone and _age(folder, number) < STALE_SECONDS:
        return None
    mine = Holder.this_process()
    path = folder / _name(number + 1)
    draft = folder / f".{path.name}.{mine.host}.{mine.pid}.{threading.get_ident()}"
    try:
        draft.write_text(json.dumps(asdict(mine)), encoding="utf-8")
        try:
            os.link(draft, path)  # fails where it exists, on network disks as well
        except FileExistsError:
            return None
        finally:
            draft.unlink()
    except OSError as error:
        raise MachineError(f"{folder}: cannot be written: {error.strerror or error}") from error
    for old in range(max(1, number - 1), number):  # the last one is kept: its holder may yet look for us
        (folder / _name(old)).unlink(missing_ok=True)
    return Lease(path, number + 1, mine)


def current(folder: Path) -> tuple[int, Holder | None]:
    """The highest number given so far, 0 for none, and its holder; UNREADABLE, who may live, where the file is bad."""
    number = _highest(folder)
    if number == 0:
        return 0, None
    try:
        document = json.loads((folder / _name(number)).read_text(encoding="utf-8"))
        return number, Holder(
            **{field.name: document[field.name] for field in fields(Holder) if field.name in document}
        )
    except (OSError, ValueError, TypeError):
        return number, UNREADABLE


def live_holder(folder: Path) -> Holder | None:
    """Who holds the cell now, judged by this machine's clock; writes nothing."""
    number, holder = current(folder)
    if holder is None or holder.released or holder.is_gone:
        return None
    try:
        touched = (folder / _name(number)).stat().st_mtime
    except OSError:
        return holder  # followed by others this moment, or the disk is away
    return holder if time.time() - touched < STALE_SECONDS else None


def _highest(folder: Path) -> int:
    names = (re.fullmatch(r"lease-(\d+)\.json", path.name) for path in folder.glob("lease-*.json"))
    return max((int(name[1]) for name in names if name), default=0)


def _name(number: int) -> str:
    return f"lease-{number}.json"


def _age(folder: Path, number: int) -> float:
    """Seconds since the lease was touched, by the disk's own clock: machines may not agree on the time."""
    probe = folder / f".now.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError as error:
        raise MachineError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        return now - (folder / _name(number)).stat().st_mtime
    except OSError:
        return 0.0  # it has just been followed by others


def _started(pid: int) -> float:
    """When a process of this machine began; 0 for one that has ended, a zombie included."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


@cache
def _processes() -> str:
    """The running kernel and the namespace in which this process has its number."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
