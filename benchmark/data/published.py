"""Import of the published `raw_data_*.pt`, one tensor a run as `torch.save` wrote it, into a data file.

The files are not trusted. `torch.load(weights_only=True)` runs no code of a file, but it allocates as much memory as
the file requests and trusts the size that a tensor claims. Therefore a file is read once, up to a limit; its records
must be uncompressed and match their checksums; its pickle may name only the globals of one float tensor; and torch
reads these records alone, from a new archive.
"""

import hashlib
import io
import pickletools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data import dataset_registry
from benchmark.data.dataset import IMPORTED, Preset, PublishedFiles, Simulation
from benchmark.data.layout import write
from benchmark.data.paths import data_path
from benchmark.errors import UserError

PLAIN_TENSOR = (
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "torch FloatStorage",
    "torch DoubleStorage",
    "torch HalfStorage",
)
"""Globals in the pickle of a tensor of floats."""
SIZE_FACTOR, SIZE_SLACK = 4, 2**20
"""Largest file: factor of the expected tensor, because a view is saved with its whole storage, and slack in bytes."""
PICKLE_LIMIT = 4096
"""Largest pickle in bytes; that of a plain tensor takes about 200, its numbers are another record."""
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the files of torch before 1.6, which were no zip archives."""
NAMES_SHOWN = 10
Progress = Callable[[int], None]
"""Callback that takes the number of files read since its last call."""


def import_files(dataset_name: str, folder: Path, data_folder: Path, progress: Progress) -> Path:
    """Read the published files of a dataset from `folder` and write its preset `imported`; returns the path.

    All runs are cut to the length of the shortest. Equal files give equal bytes. `progress` is called with 1 after each
    file. Smoke: spacing and time step are 1, as in the published simulation. Measurements: the component order is the
    one with less divergence; the units are the distances of points and frames.

    UserError: unknown dataset, a dataset without published files, no such folder; or, in one message, all files that
    are missing, damaged, too short or hold something else. MachineError: the data folder cannot be written.
    """
    dataset = dataset_registry.dataset(dataset_name)
    files = dataset.published_files
    if files is None:
        names = dataset_registry.dataset_names()
        importable = [name for name in names if dataset_registry.dataset(name).published_files is not None]
        raise UserError(
            f"{dataset_name} is simulated (`symbench data prepare SUITE`), there are no files to import;"
            f" there are for: {', '.join(importable)}"
        )
    size = dataset.presets[IMPORTED]
    assert isinstance(size, Preset)  # published files are fields
    runs = _read_all(dataset_name, files, size, folder, progress)
    simulation = _simulation(runs, files.measured)
    path = data_path(data_folder, dataset_name, IMPORTED, files.level)
    write(path, dataset_name, IMPORTED, files.level, simulation)
    return path


@dataclass(frozen=True)
class _Run:
    """`frames` is (time, 2, ., .) float32 with the axes of the file; `origin` describes the file."""

    frames: NDArray[np.float32]
    origin: Mapping[str, Any]


class _UnusableError(Exception):
    """Fault of a file, as a predicate that follows its name."""


def _simulation(runs: Sequence[_Run], measured: bool) -> Simulation:
    """All runs, in units of grid points and frames.

    Published smoke is not divergence-free: the solver iterates, and the scale set is resampled.
    """
    parameters: dict[str, Any]
    if measured:
        field = _stack(run.frames for run in runs)
        as_stored, swapped = _mean_divergence(field), _mean_divergence(field[:, :, ::-1])
        parameters = {
            "components_swapped": swapped < as_stored,
            "mean_absolute_divergence_as_stored": as_stored,
            "mean_absolute_divergence_swapped": swapped,
            "units": "grid points and frames; the real ones are not published",
        }
        if swapped < as_stored:
            field = field[:, :, ::-1]
    else:
        field = _stack(run.frames.swapaxes(-2, -1) for run in runs)
        parameters = {"axes_in_file": "time, component, y, x"}
    return Simulation(
        field=field,
        grid="centered" if measured else "staggered",
        divergence_free=False,
        spacing=1.0,
        time_step=1.0,
        parameters=parameters,
        run_parameters=[run.origin for run in runs],
        equivariance_errors=(),
    )


def _stack(runs: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Array (run, time, 2, H, W), as long as the shortest run."""
    runs = list(runs)
    length = min(len(run) for run in runs)
    return np.stack([run[:length] for run in runs])


def _mean_divergence(field: NDArray[np.float32]) -> float:
    """Mean |du_0/dH + du_1/dW| over the inner points of (run, time, 2, H, W), by central differences, spacing 1."""

    def of_run(run: NDArray[np.float64]) -> float:
        along_h = run[:, 0, 2:, 1:-1] - run[:, 0, :-2, 1:-1]
        along_w = run[:, 1, 1:-1, 2:] - run[:, 1, 1:-1, :-2]
        return float(np.abs(along_h + along_w).mean()) / 2

    return float(np.mean([of_run(run.astype(np.float64)) for run in field]))


def _read_all(name: str, files: PublishedFiles, preset: Preset, folder: Path, progress: Progress) -> list[_Run]:
    """Runs in their order. UserError: lists all faults, the missing files first."""
    grid = (preset.height, preset.width) if files.measured else (preset.width, preset.height)
    present = _names_in(folder, files)
    missing = [name for name in files.names if name not in present]
    problems = [_missing(missing, files)] if missing else []
    runs = []
    for file_name in files.names:
        if file_name not in missing:
            try:
                with warnings.catch_warnings():  # torch and pickletools warn about files that are refused anyway
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
        return {path.name for path in folder.iterdir()}
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
    """Read one file. _UnusableError: its fault."""
    frame_bytes = 2 * grid[0] * grid[1] * torch.float32.itemsize
    limit = SIZE_FACTOR * frames * frame_bytes + SIZE_SLACK
    content = _content(path, limit)
    tensor = _tensor(content)
    shape = tuple(tensor.shape)
    if shape[1:] != (2, *grid):
        raise _UnusableError(f"holds a tensor of shape {shape}")
    if shape[0] < frames:
        raise _UnusableError(f"holds {shape[0]} frames; {frames} are needed")
    if shape[0] > limit // frame_bytes:  # a view may repeat its numbers without end
        raise _UnusableError(f"holds {shape[0]} frames; at most {limit // frame_bytes} are taken")
    values = tensor.to(torch.float32).contiguous().numpy()
    if not np.isfinite(values).all():
        raise _UnusableError("holds values that are not finite as float32")
    if not values.any():
        raise _UnusableError("holds nothing but zeros")
    origin = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "shape": list(shape)}
    return _Run(values, origin | {"dtype": str(tensor.dtype).removeprefix("torch.")})


def _content(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():  # reading a pipe would block
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


def _tensor(content: bytes) -> Tensor:
    """The only tensor in a file of torch.save, without its gradient."""
    try:
        return _loaded(content)
    except _UnusableError:
        raise
    except Exception as error:  # zipfile, pickletools and torch raise almost anything on altered bytes
        if content.startswith(OLD_FORMAT):
            raise _UnusableError(
                "has the format of torch before 1.6; where you trust it, load and save it again"
            ) from error
        raise _UnusableError(f"is not a whole, unaltered file of torch.save ({type(error).__name__})") from error


def _loaded(content: bytes) -> Tensor:
    with ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(content):
            raise _UnusableError("is a compressed archive, which torch.save never writes")
        records = {entry.filename.partition("/")[2]: archive.read(entry) for entry in entries}  # verifies checksums
    _require_one_tensor(records["data.pkl"])
    if records.get("byteorder", b"little") != b"little":
        raise _UnusableError(f"has the byte order {_quoted(records['byteorder'].decode())}, and not little")
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for name in ("version", "data.pkl", "data/0"):
            if name in records:
                archive.writestr(ZipInfo(f"run/{name}"), records[name])
    packed.seek(0)
    tensor = torch.load(packed, map_location="cpu", weights_only=True)
    if not isinstance(tensor, Tensor):
        raise _UnusableError(f"holds something else than one plain tensor, with {_quoted(type(tensor).__name__)}")
    if tensor.untyped_storage().nbytes() != len(records["data/0"]):  # older versions of torch do not check
        raise _UnusableError("is damaged: it does not hold as many numbers as it says")
    return tensor.detach()


def _require_one_tensor(pickled: bytes) -> None:
    """_UnusableError: a global that one tensor does not need, or a value read twice, which may grow exponentially."""
    if len(pickled) > PICKLE_LIMIT:
        raise _UnusableError("holds something else than one plain tensor")
    for opcode, value, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and value not in PLAIN_TENSOR:
            name = _quoted(str(value).replace(" ", "."))
            raise _UnusableError(f"holds something else than one plain tensor, with {name}")
        if "GET" in opcode.name:
            raise _UnusableError("holds something else than one plain tensor")


def _quoted(text: str) -> str:
    """Name from a file, printable and short."""
    return ascii(text[:60])
