"""Makes a data file of the published `raw_data_*.pt`, one tensor a run as `torch.save` wrote it.

The files come from strangers, and unpickling runs what a file asks for. Therefore a file is read once, up to a limit;
its records are compared with their checksums, which torch does not do; and its pickle is compared, opcode by opcode,
with what `torch.save` writes for one plain tensor. Only then does `torch.load(weights_only=True)` see these records,
packed anew.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import registry
from ..errors import UserError
from .dataset import IMPORTED, Preset, Progress, PublishedFiles, Simulation
from .layout import data_path, write

ITEM_BYTES = {"torch FloatStorage": 4, "torch DoubleStorage": 8, "torch HalfStorage": 2}
SIZE_FACTOR, SIZE_SLACK = 4, 2**20
"""A file may be this many times as large as the expected tensor, since a view is saved with all that it looks at."""
PICKLE_LIMIT = 4096
"""Bytes; the pickle of a plain tensor takes about 200, the numbers lie beside it."""
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that files began with before they were zip archives."""
NAMES_SHOWN = 10
ARCHIVE_ERRORS = (BadZipFile, EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError)
"""What zipfile raises for altered bytes: an entry seems encrypted, patched, or to lie outside the file, and so on."""
LOAD_ERRORS = (pickle.UnpicklingError, IndexError, RuntimeError, TypeError, ValueError)
"""What torch.load raises for records that `_plan` lets pass: a view beyond its storage, a version of 30 digits, ..."""


def import_files(dataset_name: str, folder: Path, data_folder: Path, progress: Progress) -> Path:
    """Read the published files of a dataset from `folder`, and write them as its preset `imported`; returns the path.

    All runs are cut to the length of the shortest. Equal files give the same bytes. `progress` is called with 1 after
    each file. Smoke: spacing and time step are 1, as in the published simulation. Measurements: the component order
    is the one with less divergence, and the units are the distance of two points and of two frames, whatever that is.

    UserError: unknown dataset, one that is not imported, no such folder; and, all in one message, the files that are
    missing, damaged, too short or hold something else. MachineError: the data folder cannot be written to.
    """
    dataset = registry.dataset(dataset_name)
    files = dataset.published_files
    if files is None:
        raise UserError(
            f"{dataset_name} is simulated (`symbench data prepare SUITE`), there are no files to import;"
            f" there are for: {', '.join(_importable())}"
        )
    runs = _read_all(dataset_name, files, dataset.presets[IMPORTED], folder, progress)
    simulation = _measurements(runs) if files.measured else _smoke(runs)
    path = data_path(data_folder, dataset_name, IMPORTED, files.level)
    write(path, dataset_name, IMPORTED, files.level, simulation)
    return path


def _importable() -> list[str]:
    return [name for name in registry.dataset_names() if registry.dataset(name).published_files is not None]


@dataclass(frozen=True)
class _Run:
    """`frames` is (time, 2, ., .) float32, axes as in the file; `origin` says which file it was."""

    frames: NDArray[np.float32]
    origin: Mapping[str, Any]


class _UnusableError(Exception):
    """What is wrong with a file, as a sentence whose subject is the file."""


def _smoke(runs: Sequence[_Run]) -> Simulation:
    """The published solver leaves some divergence, and the scale set is resampled: nothing is promised."""
    return Simulation(
        field=_stack(run.frames.swapaxes(-2, -1) for run in runs),
        grid="staggered",
        divergence_free=False,
        spacing=1.0,
        time_step=1.0,
        parameters={"axes_in_file": "time, component, y, x"},
        run_parameters=[run.origin for run in runs],
        equivariance_errors=(),
    )


def _measurements(runs: Sequence[_Run]) -> Simulation:
    field = _stack(run.frames for run in runs)
    as_stored = _mean_divergence(field)
    swapped = _mean_divergence(field[:, :, ::-1])
    return Simulation(
        field=field[:, :, ::-1] if swapped < as_stored else field,
        grid="centered",
        divergence_free=False,
        spacing=1.0,
        time_step=1.0,
        parameters={
            "components_swapped": swapped < as_stored,
            "mean_absolute_divergence_as_stored": as_stored,
            "mean_absolute_divergence_swapped": swapped,
            "units": "grid points and frames; the real ones are not published",
        },
        run_parameters=[run.origin for run in runs],
        equivariance_errors=(),
    )


def _stack(runs: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(run, time, 2, H, W), as long as the shortest run."""
    runs = list(runs)
    length = min(len(run) for run in runs)
    return np.stack([run[:length] for run in runs])


def _mean_divergence(field: NDArray[np.float32]) -> float:
    """Mean |du_0/dH + du_1/dW| over the inner points of (run, time, 2, H, W), by centred differences, a point apart."""

    def of_run(run: NDArray[np.float64]) -> float:
        along_h = run[:, 0, 2:, 1:-1] - run[:, 0, :-2, 1:-1]
        along_w = run[:, 1, 1:-1, 2:] - run[:, 1, 1:-1, :-2]
        return float(np.abs(along_h + along_w).mean()) / 2

    return float(np.mean([of_run(run.astype(np.float64)) for run in field]))


def _read_all(name: str, files: PublishedFiles, preset: Preset, folder: Path, progress: Progress) -> list[_Run]:
    """The runs in their order. UserError with all that is wrong, the missing files first."""
    grid = (preset.height, preset.width) if files.measured else (preset.width, preset.height)
    present = _names_in(folder, files)
    missing = [name for name in files.names if name not in present]
    problems = [_missing(missing, files)] if missing else []
    runs = []
    for file_name in files.names:
        if file_name not in missing:
            try:
                with warnings.catch_warnings():  # torch and pickletools warn of what is refused in any case
                    warnings.simplefilter("ignore")
                    runs.append(_read(folder / file_name, preset.frames, grid))
            except _UnusableError as error:
                problems.append(f"{file_name} {error}")
        progress(1)
    if problems:
        shape = f"({preset.frames} or more frames, 2, {grid[0]}, {grid[1]})"
        right = f"right is one float32 tensor of shape {shape} in each file, as torch.save writes it"
        raise UserError("\n  ".join([f"{folder}: {name} cannot be imported from here", *problems, right]))
    return runs


def _names_in(folder: Path, files: PublishedFiles) -> set[str]:
    try:
        return {found.name for found in folder.iterdir()}
    except OSError as error:
        expected = f"a folder with {_abbreviated(files.names)}"
        raise UserError(f"{folder}: {error.strerror or error}; right is {expected} ({files.where})") from error


def _missing(missing: Sequence[str], files: PublishedFiles) -> str:
    if len(missing) == len(files.names):
        return f"it holds none of the expected files {_abbreviated(missing)}: {files.where}"
    return f"{len(missing)} of {len(files.names)} files are missing, {_abbreviated(missing)}: {files.where}"


def _abbreviated(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(path: Path, frames: int, grid: tuple[int, int]) -> _Run:
    """One file. _UnusableError says what is wrong with it."""
    frame_bytes = 2 * grid[0] * grid[1] * ITEM_BYTES["torch FloatStorage"]
    limit = SIZE_FACTOR * frames * frame_bytes + SIZE_SLACK
    content = _content(path, limit)
    records = _records(content)
    plan = _plan(records.get("data.pkl", b""))
    _check_shape(plan.shape, frames, grid, limit // frame_bytes)
    if f"data/{plan.key}" not in records or len(records[f"data/{plan.key}"]) != plan.storage_bytes:
        raise _UnusableError("is damaged: it does not hold as many numbers as it says")
    tensor = _load(records, plan.key)
    values = tensor.to(torch.float32).contiguous().numpy()
    if not np.isfinite(values).all():
        raise _UnusableError("holds values that are not finite as float32")
    if not values.any():
        raise _UnusableError("holds nothing but zeros")
    origin = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "shape": list(plan.shape)}
    return _Run(values, origin | {"dtype": str(tensor.dtype).removeprefix("torch.")})


def _content(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would let us wait for ever
            raise _UnusableError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise _UnusableError(f"cannot be read ({error.strerror or error})") from error
    if not content:
        raise _UnusableError("is empty")
    if len(content) > limit:
        raise _UnusableError(
            f"is larger than {limit / 2**20:.1f} MiB, and so not one run"
            " (a part of a larger tensor must be cloned before it is saved)"
        )
    return content


def _records(content: bytes) -> dict[str, bytes]:
    """The records of an archive of `torch.save` by their names, without the name of the folder that they are in."""
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > len(content):
                raise _UnusableError("is a compressed archive, which torch.save never writes")
            records = {entry.filename.partition("/")[2]: archive.read(entry) for entry in entries}
    except ARCHIVE_ERRORS as error:
        if content.startswith(OLD_FORMAT):
            raise _UnusableError(
                "has the format of torch before 1.6; where you trust it, load and save it again"
            ) from error
        raise _UnusableError(f"is not a whole, unaltered archive of torch.save ({type(error).__name__})") from error
    if not {"data.pkl", "version"} <= records.keys():
        raise _UnusableError("is an archive, but none of torch.save")
    return records


@dataclass(frozen=True)
class _Plan:
    """What a pickle will make of the records: a tensor of this shape in `storage_bytes` of the record data/`key`."""

    key: str
    storage_bytes: int
    shape: tuple[int, ...]


OPCODES = {
    **dict.fromkeys(("PROTO", "BINPUT", "LONG_BINPUT"), ""),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), "i"),
    "EMPTY_TUPLE": "0",
    "TUPLE1": "1",
    "TUPLE2": "2",
    "TUPLE3": "3",
    "MARK": "(",
    "TUPLE": ")",
    "BINPERSID": "p",
    "BINUNICODE": "s",
    "GLOBAL": "g",
    "NEWFALSE": "F",
    "NEWTRUE": "T",
    "REDUCE": "r",
    "STOP": ".",
}
"""One letter for each opcode of a plain tensor; those that keep something for later have none, as nothing is reused."""
INTEGERS = r"(\(i*\)|0|i1|ii2|iii3)"
PLAIN_TENSOR = re.compile(rf"g\(\(sgssi\)pi{INTEGERS}{INTEGERS}([TF])g0r\)r\.")
"""_rebuild_tensor_v2(storage(type, key, location, length), offset, shape, strides, requires_grad, OrderedDict())."""


def _plan(pickled: bytes) -> _Plan:
    """Read the pickle without running it. _UnusableError where it is anything but one tensor of floats."""
    try:
        steps = [(OPCODES.get(opcode.name, "?"), value) for opcode, value, _ in _opcodes(pickled)]
    except ValueError as error:
        raise _UnusableError("is damaged: its pickle is not whole") from error
    form = PLAIN_TENSOR.fullmatch("".join(letter for letter, _ in steps))
    references, texts = ([str(value) for letter, value in steps if letter == kind] for kind in "gs")
    storage_type = references[1] if form else ""
    expected = ["torch._utils _rebuild_tensor_v2", storage_type, "collections OrderedDict"]
    if form is None or references != expected or texts[0] != "storage":
        raise _UnusableError(f"holds something else than one plain tensor{_foreign(references)}")
    if storage_type not in ITEM_BYTES:
        raise _UnusableError(f"holds a tensor of another type, {_quoted(storage_type)}")
    if form[3] == "T":
        raise _UnusableError("holds a tensor that requires gradients; save tensor.detach() in its place")
    length, _, *shape_and_strides = (value for letter, value in steps if letter == "i")
    return _Plan(texts[1], length * ITEM_BYTES[storage_type], tuple(shape_and_strides[: form[1].count("i")]))


def _opcodes(pickled: bytes) -> Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    if len(pickled) > PICKLE_LIMIT:
        raise _UnusableError("holds something else than one plain tensor")
    return pickletools.genops(pickled)


def _foreign(references: Sequence[str]) -> str:
    """The first name that a plain tensor does not need, since it tells what the file is."""
    plain = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", *ITEM_BYTES}
    foreign = [reference for reference in references if reference not in plain]
    return f", with {_quoted(foreign[0])}" if foreign else ""


def _quoted(reference: str) -> str:
    """A name out of a file, printable and short."""
    return ascii(reference.replace(" ", ".")[:60])


def _check_shape(shape: tuple[int, ...], frames: int, grid: tuple[int, int], most_frames: int) -> None:
    if len(shape) != 4:
        raise _UnusableError(f"holds a tensor with {len(shape)} axes")
    if shape[1:] != (2, *grid):
        raise _UnusableError(f"holds a tensor of shape {shape}")
    if shape[0] < frames:
        raise _UnusableError(f"holds {shape[0]} frames; {frames} are needed")
    if shape[0] > most_frames:  # a view may show the same numbers over and over again
        raise _UnusableError(f"holds {shape[0]} frames; at most {most_frames} are taken")


def _load(records: Mapping[str, bytes], key: str) -> Tensor:
    """Let torch read the records that were checked, and nothing else that its own reader might find in the file."""
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for name in ("version", "byteorder", "data.pkl", f"data/{key}"):
            if name in records:
                archive.writestr(ZipInfo(f"run/{name}"), records[name])
    packed.seek(0)
    try:
        tensor = torch.load(packed, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise _UnusableError(f"is damaged: torch cannot make a tensor of it ({type(error).__name__})") from error
    assert isinstance(tensor, Tensor)
    return tensor
