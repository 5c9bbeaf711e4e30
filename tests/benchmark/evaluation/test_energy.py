"""Energy of a training: counters of a made-up machine, which have the layout of Linux's RAPL and NVML's functions."""

import math
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from benchmark.evaluation import energy
from benchmark.evaluation.energy import EnergyMeter
from benchmark.training.distributed import World

WRAPS_AT = 262_143_328_850
"""Range of a counter in microjoules, as Intel's processors have it."""


class Zones:
    """Two processors, one with a counter of its memory, and zones within and above them."""

    NAMES = ("intel-rapl:0 package-0", "intel-rapl:0:0 core", "intel-rapl:0:1 dram", "intel-rapl:1 package-1")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for zone, name in (*(line.split() for line in self.NAMES), ("intel-rapl:2", "psys")):
            (folder / zone).mkdir()
            (folder / zone / "name").write_text(f"{name}\n")
            (folder / zone / "max_energy_range_uj").write_text(f"{WRAPS_AT}\n")
            self.count(zone, 0)

    def count(self, zone: str, microjoules: int) -> None:
        (self.folder / zone / "energy_uj").write_text(f"{microjoules % WRAPS_AT}\n")


@pytest.fixture
def zones(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWER_ZONES", tmp_path)
    monkeypatch.setattr(energy, "READ_SECONDS", 0.0)
    monkeypatch.setattr(energy, "OWN_SHARE", 0.0)  # whatever else runs here
    return Zones(tmp_path)


def test_processors_and_their_memory_count_once(zones):
    meter = EnergyMeter(World())
    for zone, joules in (("intel-rapl:0", 100), ("intel-rapl:0:1", 10), ("intel-rapl:1", 1)):
        zones.count(zone, joules * 10**6)
    zones.count("intel-rapl:0:0", 40 * 10**6)  # part of the first processor
    zones.count("intel-rapl:2", 200 * 10**6)  # the whole board
    assert meter.lap() == pytest.approx(111)
    assert meter.lap() == 0, "a lap begins where the last one ended"


def test_a_counter_that_starts_again_is_followed(zones):
    zones.count("intel-rapl:0", WRAPS_AT - 10**6)
    meter = EnergyMeter(World())
    for joules in range(0, 600_000, 100_000):  # more than twice its range
        zones.count("intel-rapl:0", joules * 10**6)
        meter.update()
    assert meter.lap() == pytest.approx(500_001)


def test_after_a_long_time_without_a_reading_there_is_no_number(zones, monkeypatch):
    meter = EnergyMeter(World())
    monkeypatch.setattr(energy, "MOST_SECONDS", 0.0)
    assert math.isnan(meter.lap())


def test_closed_and_missing_counters_are_no_number(zones, monkeypatch):
    meter = EnergyMeter(World())
    (zones.folder / "intel-rapl:1" / "energy_uj").write_text("")  # what cannot be read is not left out of a sum
    assert math.isnan(meter.lap())
    assert math.isnan(EnergyMeter(World()).lap())
    (zones.folder / "intel-rapl:1" / "energy_uj").unlink()
    assert math.isnan(EnergyMeter(World()).lap())
    monkeypatch.setattr(energy, "POWER_ZONES", zones.folder / "none")
    assert math.isnan(EnergyMeter(World()).lap())


def test_beside_others_there_is_no_number(zones, monkeypatch):
    monkeypatch.setattr(energy, "OWN_SHARE", 0.9)
    busy = iter((100.0, 100.0, 100.0, 200.0, 200.0))
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=next(busy), system=0.0))
    meter = EnergyMeter(World())
    assert meter.lap() == pytest.approx(0), "nobody was busy"
    assert math.isnan(meter.lap()), "100 s of processor time that are not ours"


@pytest.fixture
def gpu(monkeypatch):
    state = SimpleNamespace(millijoules=5000, processes=["ours"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {"GPU-1-2": "handle"}[uuid])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: state.millijoules)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: state.processes)
    return state


def test_a_gpu_counts_for_a_training_on_it(gpu):
    meter = EnergyMeter(World(device=torch.device("cuda", 0)))
    gpu.millijoules += 7000
    assert meter.lap() == pytest.approx(7)
    for processes in (["ours", "another's"], []):  # from within a container NVML may see none
        gpu.processes = processes
        assert math.isnan(meter.lap())


def test_a_gpu_without_a_counter_is_no_number(gpu, monkeypatch):
    def refuse(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    assert math.isnan(EnergyMeter(World(device=torch.device("cuda", 0))).lap())


def test_the_ranks_of_a_machine_read_its_processors_once(zones):
    class Second(World):
        def gather(self, value):
            return [value, value]

    meter = EnergyMeter(Second(rank=1, size=2))
    zones.count("intel-rapl:0", 3 * 10**6)
    assert meter.lap() == 0, "the first rank has them"
