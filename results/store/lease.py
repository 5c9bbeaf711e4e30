"""Lease of a cell: one process at a time runs it, on any machine that shares the disk.

Leases are numbered. The process that creates `lease-<n>.json` first holds the cell, and touches the file while it
works. A lease that was released, or not touched for STALE_SECONDS, is followed by number n + 1, which is created
exclusively as well. Two processes can therefore never take over from the same dead holder, and a holder that was cut
off sees its successor. No lock of the operating system is needed: not all network disks have them.
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

from benchmark.files import write_errors, write_json

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
"""A holder that has not touched its lease for this long is dead or cut off."""
TAKEOVER_SECONDS = 2 * (STALE_SECONDS + BEAT_SECONDS)
"""Time after which a lease of a holder that has just died or was cut off is certainly stale."""
CLOCK_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """Process that holds a lease; `job` is its SLURM job, if any, and `restart` how often SLURM had requeued that."""

    host: str
    pid: int
    started: float
    """Start of the process in seconds since 1970, because process numbers are reused."""
    job: str = ""
    released: bool = False
    restart: int = 0
    processes: str = ""
    """Boot of the kernel and its namespace of process numbers, within which `pid` is valid; empty outside Linux."""

    @classmethod
    def this_process(cls) -> Holder:
        """The calling process as a holder."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            _start_time(os.getpid()),
            os.environ.get("SLURM_JOB_ID", ""),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            processes=_process_namespace(),
        )

    def __str__(self) -> str:
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; False if that cannot be known.

        A container on this machine has its own process numbers, and another machine may have this one's name.
        """
        if self.host != socket.gethostname() or self.processes != _process_namespace():
            return False
        return abs(_start_time(self.pid) - self.started) > CLOCK_TOLERANCE_SECONDS


UNREADABLE = Holder("a machine unknown", 0, 0.0)
"""Holder of a lease whose file cannot be read, perhaps because of the disk; it may be alive."""


class Lease:
    """A lease that this process holds; made by `acquire`."""

    def __init__(self, path: Path, number: int, holder: Holder) -> None:
        self.path, self.number, self.holder = path, number, holder
        self.known_lost = False
        """Whether a successor has been seen, by `lost` or by the heartbeat of `kept`."""

    @property
    def lost(self) -> bool:
        """Whether the lease has a successor, after which nothing may be written. Reads the disk."""
        self.known_lost = self.known_lost or _highest(self.path.parent) > self.number
        return self.known_lost

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Touch the lease during the block, then release it."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                with suppress(OSError):  # the disk may be away for a moment; if it stays away, the lease is lost
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


def acquire(folder: Path, patience_seconds: float = 0.0) -> Lease | None:
    """Lease of the cell in the existing `folder`, or None if a live process holds it for `patience_seconds`.

    Raises MachineError if the folder cannot be written.
    """
    deadline = time.monotonic() + patience_seconds
    while (mine := _acquire(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    return mine


def _acquire(folder: Path) -> Lease | None:
    number, holder = current(folder)
    mine = Holder.this_process()
    path = folder / _name(number + 1)
    draft = folder / f".{path.name}.{mine.host}.{mine.pid}.{threading.get_ident()}"
    with write_errors(folder):
        try:
            draft.write_text(json.dumps(asdict(mine)), encoding="utf-8")
            disk_time = draft.stat().st_mtime  # the clocks of two machines may differ
            if _is_alive(folder, number, holder, disk_time):
                return None
            os.link(draft, path)  # fails if it exists, on network disks as well
        except FileExistsError:
            return None
        finally:
            draft.unlink(missing_ok=True)
    for old in range(max(1, number - 1), number):  # the previous lease stays: its holder may still look for it
        (folder / _name(old)).unlink(missing_ok=True)
    return Lease(path, number + 1, mine)


def current(folder: Path) -> tuple[int, Holder | None]:
    """Highest number in `folder` and its holder, UNREADABLE if the file is damaged; (0, None) without a lease."""
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
    """Holder of the cell in `folder`, judged by this machine's clock, or None. Writes nothing."""
    number, holder = current(folder)
    return holder if _is_alive(folder, number, holder, time.time()) else None


def _is_alive(folder: Path, number: int, holder: Holder | None, now: float) -> bool:
    if holder is None or holder.released or holder.is_gone:
        return False
    try:
        return now - (folder / _name(number)).stat().st_mtime < STALE_SECONDS
    except OSError:  # a successor has just removed the file, or the disk is away
        return True


def _highest(folder: Path) -> int:
    names = (re.fullmatch(r"lease-(\d+)\.json", path.name) for path in folder.glob("lease-*.json"))
    return max((int(name[1]) for name in names if name), default=0)


def _name(number: int) -> str:
    return f"lease-{number}.json"


def _start_time(pid: int) -> float:
    """Start of a process of this machine; 0 if it has ended or is a zombie."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


@cache
def _process_namespace() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
