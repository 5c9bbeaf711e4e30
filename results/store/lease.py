"""Lease of a folder: one process at a time works in it, on any machine that shares the disk.

Leases are numbered. The process that creates `lease-<n>.json` first holds the folder, and touches the file while it
works. A lease that was released, or not touched for STALE_SECONDS, is followed by number n + 1, which is created
exclusively as well. Two processes can therefore never take over from the same dead holder. A holder that was cut off
sees its successor, or that its own file is gone or bears another token, where the folder was moved or removed.
Locks and hard links of the operating system are not needed: not all network disks have them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import psutil

from benchmark.errors import MachineError
from benchmark.files import write_errors, write_json

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
"""A holder that has not touched its lease for this long is dead or cut off."""
TAKEOVER_SECONDS = 2 * (STALE_SECONDS + BEAT_SECONDS)
"""Time after which a lease of a holder that has just died or was cut off is certainly stale."""
CLOCK_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """Process that holds a lease; `job` is its SLURM job, if any, as squeue names it, and `restart` how often SLURM had
    requeued that."""

    host: str
    pid: int
    started: float
    """Start of the process in seconds since 1970, because process numbers are reused."""
    job: str = ""
    released: bool = False
    restart: int = 0
    processes: str = ""
    """Boot of the kernel and its namespace of process numbers, within which `pid` is valid; empty outside Linux."""
    token: str = ""
    """Random, so that a lease of the same number in a folder made anew is told apart."""

    @classmethod
    def this_process(cls) -> Holder:
        """The calling process as a holder."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            _start_time(os.getpid()),
            _slurm_job(),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            processes=_process_namespace(),
            token=secrets.token_hex(8),
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
        self.is_last = False
        """Whether the folder needs no lease any more: its work is done, and `kept` leaves no file."""

    @property
    def lost(self) -> bool:
        """Whether the file of this lease is gone, replaced or followed, after which nothing may be written.

        Reads the disk. Raises MachineError if the disk does not answer.
        """
        if not self.known_lost:
            with write_errors(self.path):
                number, holder = current(self.path.parent)
            is_ours = holder is UNREADABLE or (holder is not None and holder.token == self.holder.token)
            self.known_lost = number != self.number or not is_ours
        return self.known_lost

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Touch the lease during the block, then release it. One that cannot be released gets stale."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                with suppress(
                    MachineError, OSError
                ):  # the disk may be away for a moment; if it stays away, the lease is lost
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
            try:
                if not self.lost and self.is_last:
                    with write_errors(self.path):
                        for number in (self.number - 1, self.number):
                            self.path.with_name(_name(number)).unlink(missing_ok=True)
                elif not self.lost:
                    write_json(self.path, asdict(self.holder) | {"released": True})
            except MachineError as error:
                print(f"{self.path}: cannot be released, and is stale in {STALE_SECONDS:.0f} s: {error}", flush=True)


@contextmanager
def held(folder: Path, patience_seconds: float = 0.0) -> Iterator[Lease | None]:
    """Hold the lease of `folder` during the block, as `acquire` and `Lease.kept` do; None if another process does."""
    mine = acquire(folder, patience_seconds)
    if mine is None:
        yield None
        return
    with mine.kept():
        yield mine


def acquire(folder: Path, patience_seconds: float = 0.0) -> Lease | None:
    """Lease of the existing `folder`, or None if a live process holds it for `patience_seconds`.

    Raises MachineError if the folder is missing or cannot be written.
    """
    deadline = time.monotonic() + patience_seconds
    while (mine := _acquire(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    return mine


def _acquire(folder: Path) -> Lease | None:
    with write_errors(folder):
        number, holder = current(folder)
        if _is_alive(folder, number, holder):
            return None
        mine = Lease(folder / _name(number + 1), number + 1, Holder.this_process())
        try:
            with mine.path.open("x", encoding="utf-8") as file:  # one process alone succeeds, on network disks as well
                json.dump(asdict(mine.holder), file)
        except FileExistsError:
            return None
        for old in range(max(1, number - 1), number):  # the previous lease stays: its holder may still look for it
            (folder / _name(old)).unlink(missing_ok=True)
    return mine


def current(folder: Path) -> tuple[int, Holder | None]:
    """Highest number in `folder` and its holder, UNREADABLE if the file is damaged; (0, None) without a lease.

    OSError: the disk does not answer.
    """
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
    """Holder of `folder`, or None. Writes nothing that stays."""
    try:
        number, holder = current(folder)
    except OSError:
        return UNREADABLE
    return holder if _is_alive(folder, number, holder) else None


def _is_alive(folder: Path, number: int, holder: Holder | None) -> bool:
    if holder is None or holder.released or holder.is_gone:
        return False
    try:
        touched = (folder / _name(number)).stat().st_mtime
    except OSError:  # a successor has just removed the file, or the disk is away
        return True
    return abs(time.time() + _disk_ahead(folder.parent) - touched) < STALE_SECONDS  # one from the future is dead, too


def _disk_ahead(disk: Path) -> float:
    """Seconds by which the clock of a disk, which dates its files, is ahead of ours; 0 where we may not write."""
    try:
        return _measured_ahead(disk)
    except OSError:
        return 0.0


@cache
def _measured_ahead(disk: Path) -> float:
    with tempfile.TemporaryFile(dir=disk) as file:
        file.write(b"now")
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_mtime - time.time()


def _highest(folder: Path) -> int:
    try:
        names = [re.fullmatch(r"lease-(\d+)\.json", path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(name[1]) for name in names if name), default=0)


def _name(number: int) -> str:
    return f"lease-{number}.json"


def _slurm_job() -> str:
    """Job of this process as squeue names it, `<array>_<index>` in an array; empty outside of SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


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
