"""Energy of a training in joules, by the counters of the devices that train: NVML for GPUs, RAPL for processors.

Nothing is estimated. The energy is nan, not measured, if a counter is missing or closed to this user, or if others use
the device, too.
"""

import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from benchmark.evaluation.evaluate import Ranks

POWER_ZONES = Path("/sys/class/powercap")
OWN_SHARE = 0.9
"""Least share of a machine's busy processor time that a training has if it is alone there."""
READ_SECONDS, MOST_SECONDS = 30.0, 120.0
"""Time between readings, and the longest one after which a reading is trusted.

A RAPL counter starts again at 6.5e4 to 2.6e5 J, which a large processor takes in three minutes or more. It does not say
how often it did so.
"""


@dataclass(frozen=True)
class Counter:
    """Counter in joules that starts again at `wraps_at`."""

    read: Callable[[], float]
    wraps_at: float = math.inf


class EnergyMeter:
    """Energy of all ranks between laps."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        hosts = ranks.gather(float(zlib.crc32(os.uname().nodename.encode())))
        self._on_gpu = ranks.device.type == "cuda"
        self._is_first_of_host = ranks.rank == hosts.index(hosts[ranks.rank])
        self._counters: Sequence[Counter] = ()
        if self._on_gpu:
            self._counters = gpu_counters(ranks.device)
        elif self._is_first_of_host:
            self._counters = processor_counters()
        self._is_blind = not self._counters and (self._on_gpu or self._is_first_of_host)
        self._begin()

    def _begin(self) -> None:
        self._joules = math.nan if self._is_blind else 0.0
        self._last = [counter.read() for counter in self._counters]
        self._last_time, self._own, self._busy = time.monotonic(), time.process_time(), _busy_seconds()

    def update(self) -> None:
        """Read the counters if READ_SECONDS have passed; to be called in every step."""
        if time.monotonic() >= self._last_time + READ_SECONDS:
            self._read()

    def _read(self) -> None:
        now = [counter.read() for counter in self._counters]
        if time.monotonic() > self._last_time + MOST_SECONDS and any(c.wraps_at < math.inf for c in self._counters):
            self._joules = math.nan
        pairs = zip(self._counters, now, self._last, strict=True)
        self._joules += sum((new - old) % counter.wraps_at for counter, new, old in pairs)
        self._last, self._last_time = now, time.monotonic()

    def lap(self) -> float:
        """Joules of all ranks since the last lap, the same on every rank; nan if they were not measured."""
        self._read()
        own = time.process_time() - self._own
        busy = _busy_seconds() - self._busy if self._is_first_of_host and not self._on_gpu else 0.0
        joules, own, busy = (math.fsum(self._ranks.gather(value)) for value in (self._joules, own, busy))
        self._begin()
        return joules if own >= OWN_SHARE * busy else math.nan


def processor_counters() -> list[Counter]:
    """Counters of the processors of this machine and of their memory; empty if there are none."""
    try:
        return [
            Counter(partial(_joules, zone / "energy_uj"), _joules(zone / "max_energy_range_uj"))
            for zone in sorted(POWER_ZONES.glob("intel-rapl:*"))  # also on AMD
            if (zone / "name").read_text().startswith(("package", "dram"))
        ]
    except OSError:
        return []


def _joules(file: Path) -> float:
    """Joules of a file in microjoules; nan if it cannot be read, as by others than root since CVE-2020-8694."""
    try:
        return int(file.read_text()) / 1e6
    except (OSError, ValueError):
        return math.nan


def gpu_counters(device: torch.device) -> list[Counter]:
    """Counter of a GPU, which has one since Volta; empty without a driver of NVIDIA, and for a MIG slice."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return []
    return [Counter(partial(_gpu_joules, handle))]


def _gpu_joules(handle: Any) -> float:
    """Joules since the driver was loaded; nan if the GPU does not say, or is not used by one process alone.

    NVML may not see processes from within a container: then nobody knows who else is there.
    """
    try:
        joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        return joules if len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) == 1 else math.nan
    except pynvml.NVMLError:
        return math.nan


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
