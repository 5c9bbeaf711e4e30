"""Problems of a data file, as messages to the user: all of them, or those that make a training meaningless."""

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path

from torch import Tensor

from benchmark.cell import DatasetChoice, Level, Protocol, main_channels
from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, Dataset, Split, SplitName
from benchmark.data.layout import StoredField, read, remedy
from benchmark.errors import MachineError, UserError, unknown_name
from benchmark.groups import divergence

DIVERGENCE_LIMIT = 1e-5
"""Limit of |divergence| times cell width, relative to the largest |velocity| of the run; float32 leaves 1e-7."""

PROTOCOLS = (Protocol(name="disjoint"), Protocol(name="icml2022"))


def check(path: Path, dataset_name: str, preset: str, level: Level) -> list[str]:
    """Problems of the file that should hold this level; [] if there is none.

    Each message names the fault and the right value, without the path. The field is read once.
    """
    try:
        dataset = dataset_registry.dataset(dataset_name)
        for kind, name, valid in (("preset", preset, dataset.presets), ("level", level, dataset.levels)):
            if name not in valid:
                raise UserError(unknown_name(kind, name, valid))
        stored = read(path)
    except (UserError, MachineError) as error:
        return [str(error).removeprefix(f"{path}: ")]
    problems = [*_identity(stored, dataset_name, preset, level), *_shape(stored, dataset, preset)]
    problems += [*_description(stored), *_not_finite(stored), *_still(stored)]
    has_velocity = "vector" in stored.components.values()
    if stored.divergence_free and stored.grid == "staggered" and stored.spacing > 0 and has_velocity:
        problems += _divergence(stored)
    return [f"{problem}; {remedy(path)}" for problem in problems]


def require_sound(stored: StoredField, choice: DatasetChoice) -> None:
    """Check what a training takes for granted, at each load: dataset, level, shape, and finite values.

    MachineError: the file is another one than it should be; the message says how to get the right one.
    """
    dataset = dataset_registry.dataset(choice.name)
    problems = [*_identity(stored, choice.name, choice.preset, choice.level), *_shape(stored, dataset, choice.preset)]
    problems += _not_finite(stored)
    if problems:
        raise MachineError(
            f"{stored.path}: {'; '.join(problems)}. `symbench data check` checks the files of a suite;"
            f" {remedy(stored.path)}"
        )


def _identity(stored: StoredField, dataset_name: str, preset: str, level: Level) -> Iterator[str]:
    held, expected = (stored.dataset, stored.level, stored.preset), (dataset_name, level, preset)
    if held != expected:
        yield "it holds {} level {} ({}), and by its name it should hold {} level {} ({})".format(*held, *expected)


def _shape(stored: StoredField, dataset: Dataset, preset: str) -> Iterator[str]:
    runs, frames, *shape = stored.field.shape
    size = dataset.presets[preset]
    held, right = (" x ".join(map(str, sizes)) for sizes in (shape, size.shape))
    if held != right:
        yield f"its field has {size.shape_names} {held}, the preset {preset} {right}"
    if stored.components != size.components:
        yield f"its components are {dict(stored.components)}, those of the preset {preset} {dict(size.components)}"
    if frames < size.frames or (frames > size.frames and preset != IMPORTED):
        least = "at least " if preset == IMPORTED else ""
        yield f"it has {frames} frames a run, and the preset {preset} {least}{size.frames}"
    splits = [split for protocol in PROTOCOLS for split in shortest_splits(dataset, protocol, preset).values()]
    needed = max((run for split in splits for run in split.runs), default=-1) + 1
    if needed and runs != needed:
        yield f"it has {runs} runs, and the splits name the runs 0 to {needed - 1}"
    if len(stored.run_parameters) != runs:
        yield f"it has {runs} runs, and describes the parameters of {len(stored.run_parameters)}"


def shortest_splits(dataset: Dataset, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
    """Splits with the shortest windows, which have the runs of all windows; {} if even these do not fit."""
    shortest = protocol.model_copy(update={"input_frames": 1, "train_steps": 1, "test_steps": 1})
    try:
        return dataset.splits(shortest, preset)
    except UserError:
        return {}


def _description(stored: StoredField) -> Iterator[str]:
    for name, value in (("spacing", stored.spacing), ("time_step", stored.time_step)):
        if not (isfinite(value) and value > 0):
            yield f"its {name} is {value}, and should be a positive number"
    wrong = [
        f"the {kind} one of {error.element} is {value}"
        for error in stored.equivariance_errors
        for kind, value in (("absolute", error.absolute), ("relative", error.relative))
        if not (isinstance(value, int | float) and isfinite(value) and value >= 0)
    ]
    if wrong:
        yield f"equivariance errors: {_some(wrong)}, and each should be a number, 0 or more"


def _not_finite(stored: StoredField) -> Iterator[str]:
    broken: list[str] = []
    for number, run in enumerate(stored.field):
        finite = run.isfinite().flatten(1)
        if not finite.all():
            frame = int((~finite.all(1)).nonzero()[0])
            broken.append(f"{int((~finite).sum())} in run {number} from frame {frame} on")
    if broken:
        yield f"values that are not finite: {_some(broken)}, and every value should be a number"


def _still(stored: StoredField) -> Iterator[str]:
    still = [number for number, run in enumerate(stored.field) if not run.any()]
    if still:
        yield f"no flow at all: run {_some(list(map(str, still)))} is zero everywhere, and something should move"


def _divergence(stored: StoredField) -> Iterator[str]:
    divergent = []
    velocity = main_channels(tuple(stored.components.values()))
    for number, run in enumerate(stored.field):
        worst, frame, largest = _worst_divergence(run[:, velocity])
        if worst > DIVERGENCE_LIMIT * largest:
            divergent.append(f"{worst / stored.spacing:.2g} / time in run {number}, frame {frame}")
    if divergent:
        yield f"divergence: {_some(divergent)}, and the file says that there is none"


def _worst_divergence(run: Tensor) -> tuple[float, int, float]:
    """Largest |divergence| of a run (time, 2, H, W) times the width of a cell, its frame, and the largest |velocity|.

    Frames that are not finite, another problem, do not count.
    """
    frames = run.isfinite().flatten(1).all(1).nonzero()[:, 0]
    if not run.numel() or not len(frames):
        return 0.0, 0, 0.0
    finite = run[frames].double()
    by_frame = divergence(finite, spacing=1.0).abs().amax((-2, -1))
    worst = int(by_frame.argmax())
    return float(by_frame[worst]), int(frames[worst]), float(finite.abs().max())


def _some(items: list[str], most: int = 3) -> str:
    """First few items and the number of the others."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
