"""Simulation of the data files that a suite needs and the store does not have.

A level is assembled from parts, which are simulated in parallel processes and kept on disk. After an interruption the
same call goes on; only the parts in progress are lost. The result of a part does not depend on the number of processes:
a part always has the same runs and computes on one thread.
"""

import hashlib
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import discovery
from benchmark.cell import Level
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, Dataset, Part
from benchmark.data.layout import part_path, read, read_part, write, write_part
from benchmark.data.paths import Field, data_path
from benchmark.data.strict_floor import measure
from benchmark.errors import MachineError, UserError, unknown_name

TotalProgress = Callable[[int, int], None]
"""Callback that takes (done, total) work."""


@dataclass(frozen=True)
class Outline:
    """Missing levels of a dataset in the order of the suite: parts of the field and of the floor, and the file."""

    name: str
    preset: str
    folder: Path
    levels: Mapping[Level, Sequence[Part]]
    floors: Mapping[Level, Sequence[Part]]
    paths: Mapping[Level, Path]

    def part_path(self, part: Part) -> Path:
        """Path of a part."""
        return part_path(self.folder, self.name, self.preset, part)

    def needed(self, level: Level) -> list[Part]:
        """Parts of the field and of the strict floor."""
        return [*self.levels[level], *self.floors[level]]

    def missing_parts(self) -> list[Part]:
        """Parts that are not simulated yet, each once; the longest of a level first."""
        parts: dict[str, Part] = {}
        for level in self.levels:
            for part in sorted(self.needed(level), key=lambda part: -part.work):
                parts.setdefault(part.key, part)
        return [part for part in parts.values() if read_part(self.part_path(part)) is None]


def outline(dataset_name: str, preset: str, levels: Iterable[Level], folder: Path) -> Outline:
    """Find the missing ones of `levels`; a broken or outdated file counts as missing.

    UserError: unknown dataset, preset or level. MachineError: the folder cannot be written, or the data must be
    imported; the message says how to get them.
    """
    dataset = dataset_registry.dataset(dataset_name)
    if preset not in dataset.presets:
        raise UserError(unknown_name("preset", preset, dataset.presets))
    parts: dict[Level, Sequence[Part]] = {}
    floors: dict[Level, Sequence[Part]] = {}
    paths = {}
    for level in dict.fromkeys(_declared(dataset, level) for level in levels):
        path = data_path(folder, dataset_name, preset, level)
        field, floor = ([], []) if preset == IMPORTED else _parts(dataset, dataset_name, level, preset)
        if not _is_current(path, (dataset_name, preset, level, recipe(field), recipe(floor))):
            parts[level], floors[level], paths[level] = field, floor, path
    for path in paths.values():
        if preset == IMPORTED:
            where = f" {dataset.published_files.where}; then" if dataset.published_files else ""
            raise MachineError(
                f"{path}: no such data file, and {dataset_name} ({IMPORTED}) is not simulated here:"
                f"{where} `{dataset.import_command(dataset_name)}`"
            )
        _require_writable(path.parent)
    return Outline(dataset_name, preset, folder, parts, floors, paths)


def outlines(fields: Iterable[Field], folder: Path) -> list[tuple[Outline, int]]:
    """Outline of each dataset and preset among `fields`, and the number of its levels. Errors as in `outline`."""
    levels: dict[tuple[str, str], list[Level]] = {}
    for name, preset, level in fields:
        levels.setdefault((name, preset), []).append(level)
    return [(outline(*key, wanted, folder), len(wanted)) for key, wanted in levels.items()]


def _parts(dataset: Dataset, name: str, level: Level, preset: str) -> tuple[Sequence[Part], Sequence[Part]]:
    """Parts of the field and of the strict floor. UserError: the field has none."""
    parts = dataset.parts(level, preset)
    if not parts:
        raise UserError(f"{name} level {level} ({preset}): parts() of the dataset gives no simulation to assemble")
    return parts, dataset.floor_parts(level, preset)


def recipe(parts: Sequence[Part]) -> str:
    """Identity of the simulations of a level; files with another recipe are outdated."""
    return hashlib.sha256("".join(part.key for part in parts).encode()).hexdigest()[:16] if parts else ""


def prepare(work: Outline, progress: TotalProgress, processes: int = 1) -> Iterator[Path]:
    """Simulate the missing levels; yields the path of each one when its file is complete.

    With a GPU, one process does all. MachineError: a simulation fails, or the disk is full; finished parts remain.
    """
    parts = work.missing_parts()
    cost, done = {part.key: part.work for part in parts}, 0
    waiting = {level: work.needed(level) for level in work.levels}
    running = _in_processes if processes > 1 and len(parts) > 1 and not torch.cuda.is_available() else _in_turn
    open_keys = {part.key for part in parts}
    for finished in running(work, parts, processes):
        if finished:
            open_keys.discard(finished)
            done += cost[finished]
            progress(done, sum(cost.values()))
        for level in [level for level, needed in waiting.items() if not open_keys & {part.key for part in needed}]:
            yield assemble(work, level)
            used = waiting.pop(level)
            still_needed = {part.key for needed in waiting.values() for part in needed}
            for part in used:
                if part.key not in still_needed:
                    work.part_path(part).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: it holds parts of other levels
        (data_path(work.folder, work.name, work.preset, 0).parent / "parts").rmdir()


def simulate_part(work: Outline, part: Part) -> str:
    """Simulate one part on one thread and write it; returns its key."""
    with _one_thread():
        write_part(work.part_path(part), part.simulate())
    return part.key


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def assemble(work: Outline, level: Level) -> Path:
    """Write a level from its parts on disk; returns its path."""
    parts, floor_parts = work.levels[level], work.floors[level]
    fields = [_field(work, part) for part in parts]
    dataset = dataset_registry.dataset(work.name)
    components = dataset.presets[work.preset].components
    simulation = replace(dataset.assemble(level, work.preset, fields), components=components)
    if floor_parts:
        deviations = [_field(work, part) for part in floor_parts]
        floor = measure(deviations, simulation.grid, recipe(floor_parts), tuple(components.values()))
        simulation = replace(simulation, strict_floor=floor)
    if torch.cuda.is_available():  # which rounds otherwise, and chaotic runs differ in time
        named = {**simulation.parameters, "device": torch.cuda.get_device_name()}
        simulation = replace(simulation, parameters=named)
    write(work.paths[level], work.name, work.preset, level, simulation, recipe(parts))
    return work.paths[level]


def _field(work: Outline, part: Part) -> NDArray[np.float32]:
    """Field of a part; simulated again if another process that prepares the same level has removed it."""
    field = read_part(work.part_path(part))
    if field is None:
        simulate_part(work, part)
        field = read_part(work.part_path(part))
        if field is None:
            raise MachineError(f"{work.part_path(part)}: cannot be read back")
    return field


def _in_turn(work: Outline, parts: Sequence[Part], processes: int) -> Iterator[str]:
    yield ""  # assembles levels whose parts are all on disk
    for part in parts:
        yield simulate_part(work, part)


def _in_processes(work: Outline, parts: Sequence[Part], processes: int) -> Iterator[str]:
    """Simulate in spawned processes, because the threads of torch do not survive a fork."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        dataset_registry.import_plugins,
        (dict(discovery.DATASETS.plugins),),
    )
    yield ""
    try:
        with _blocked(signal.SIGINT):  # workers inherit it: Ctrl-C reaches the parent alone, which ends them
            futures = [pool.submit(simulate_part, work, part) for part in parts]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise MachineError(
            f"{work.name} ({work.preset}): a simulating process was killed, perhaps for its memory;"
            " the same command goes on from what is finished"
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # after an error or Ctrl-C their results are not needed
        pool.shutdown(cancel_futures=True)


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal until the end of the block; processes started within block it for ever."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _declared(dataset: Dataset, level: Level) -> Level:
    """The level as the dataset declares it, so that 3.0 and 3 are one file."""
    if level not in dataset.levels:
        raise UserError(unknown_name("level", level, dataset.levels))
    return dataset.levels[dataset.levels.index(level)]


def _is_current(path: Path, identity: tuple[str, str, Level, str, str]) -> bool:
    """Whether there is a whole file with that dataset, preset and level, and the recipes of its field and its floor."""
    try:
        stored = read(path)
    except MachineError:
        return False
    floor = stored.strict_floor.recipe if stored.strict_floor else ""
    return (stored.dataset, stored.preset, stored.level, stored.recipe, floor) == identity


def _require_writable(folder: Path) -> None:
    """MachineError: the folder cannot be written. The check comes before hours of simulation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"{folder}: cannot write there ({error.strerror or error})") from error
