"""Data files: one HDF5 file for each (dataset, preset, level), complete or absent.

A file holds one contiguous, uncompressed data set `field` float32. Its axes are those of the kind of its states: (run,
time, component, x, y) for fields, (run, time, particle, position and velocity) for particles. Attributes of the root
describe it, structured ones as JSON. The checksum covers `field` alone, so equal data have equal checksums whatever
software wrote them.
"""

import hashlib
import importlib.metadata
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.cell import Cell, Component, Grid, Level
from benchmark.data.dataset import IMPORTED, STORAGE, EquivarianceError, Part, Simulation
from benchmark.data.hdf5 import array
from benchmark.data.paths import field_path
from benchmark.data.strict_floor import StrictFloor
from benchmark.discovery import DATASETS
from benchmark.errors import MachineError, UserError
from benchmark.files import replacing
from benchmark.groups import to_cell_centers

FORMAT = "symbench field"
FORMAT_VERSION = 2
FLOOR, COMPONENTS = "strict_floor", "components"
"""Attributes that a file may lack; without components, a field is one velocity."""
LIBRARIES = ("numpy", "scipy", "torch", "h5py")
"""Distributions whose versions a data file records."""


@dataclass(frozen=True)
class StoredField:
    """Content of a data file: `field` is (run, time, ...) float32 on the CPU; see `Simulation` for the rest."""

    path: Path
    dataset: str
    preset: str
    level: Level
    kind: str
    components: Mapping[str, Component]
    field: Tensor
    grid: Grid
    divergence_free: bool
    spacing: float
    time_step: float
    parameters: Mapping[str, Any]
    run_parameters: tuple[Mapping[str, Any], ...]
    equivariance_errors: tuple[EquivarianceError, ...]
    strict_floor: StrictFloor | None
    libraries: Mapping[str, str]
    recipe: str
    checksum: str

    @property
    def mean_absolute_error(self) -> float | None:
        """Data equivariance error: the mean over the group elements, in units of the field.

        None for measured fields: their set-up cannot be transformed.
        """
        return fmean(error.absolute for error in self.equivariance_errors) if self.equivariance_errors else None

    @property
    def mean_relative_error(self) -> float | None:
        """Data equivariance error relative to the field, or None if it was not measured."""
        return fmean(error.relative for error in self.equivariance_errors) if self.equivariance_errors else None


def part_path(folder: Path, dataset: str, preset: str, part: Part) -> Path:
    """Path of a simulated part, which is kept until the levels that need it are assembled."""
    return folder / dataset / preset / "parts" / f"{part.key}.h5"


def require(path: Path) -> None:
    """MachineError: the file does not exist; the message names the command that makes it."""
    if not path.is_file():
        raise MachineError(f"{path}: no such data file; {_origin(path)}")


def require_data(data_folder: Path, cells: Iterable[Cell]) -> None:
    """MachineError as in `require`: a data file of one of `cells` does not exist."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        require(field_path(data_folder, dataset))


def _origin(path: Path) -> str:
    """Command that makes the file of that name."""
    dataset, preset = path.parent.parent.name, path.parent.name
    if preset == IMPORTED and dataset in DATASETS.plugins:
        return f"the `symbench data import` command in {dataset}.py makes it"
    if preset == IMPORTED:
        return f"`symbench data import {dataset} FOLDER` makes it from the published files"
    return "`symbench data prepare SUITE` makes it"


def write(path: Path, dataset_name: str, preset: str, level: Level, simulation: Simulation, recipe: str = "") -> None:
    """Write one level atomically. `recipe` identifies the parts that it was assembled from; empty for imported files.

    MachineError: the disk is full or the folder cannot be written; no temporary file remains.
    """
    field = np.ascontiguousarray(simulation.field, "<f4")
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset": dataset_name,
        "preset": preset,
        "level": json.dumps(level),
        "kind": simulation.kind,
        "axes": json.dumps(STORAGE[simulation.kind].axes),
        "units": json.dumps(STORAGE[simulation.kind].units),
        "grid": simulation.grid,
        "divergence_free": simulation.divergence_free,
        "spacing": simulation.spacing,
        "time_step": simulation.time_step,
        "parameters": json.dumps(simulation.parameters, sort_keys=True),
        "run_parameters": json.dumps(list(simulation.run_parameters), sort_keys=True),
        "equivariance_errors": json.dumps([asdict(error) for error in simulation.equivariance_errors]),
        "libraries": json.dumps({name: importlib.metadata.version(name) for name in LIBRARIES}),
        "recipe": recipe,
        "checksum": checksum(field),
    }
    if simulation.components != STORAGE[simulation.kind].usual_components:
        attributes[COMPONENTS] = json.dumps(simulation.components)
    if simulation.strict_floor is not None:
        attributes[FLOOR] = json.dumps(asdict(simulation.strict_floor))
    with replacing(path) as temporary:
        temporary.write_bytes(_hdf5(field, attributes))


def write_part(path: Path, field: NDArray[np.float32]) -> None:
    """Write the field of a part atomically. MachineError as in `write`."""
    with replacing(path) as temporary:
        temporary.write_bytes(_hdf5(np.ascontiguousarray(field, "<f4"), {"checksum": checksum(field)}))


def read_part(path: Path) -> NDArray[np.float32] | None:
    """Field of a part, or None if the file is missing or damaged."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            field: NDArray[np.float32] = array(file, "field")
            intact = checksum(field) == file.attrs["checksum"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return field if intact else None


def read(path: Path, verify: bool = True) -> StoredField:
    """Read a data file. `verify` compares the checksum, which takes about as long as reading.

    MachineError: the file is missing, truncated, altered, or not a data file of symbench.
    """
    require(path)
    try:
        # A file under its final name never changes, so no lock is needed; network file systems may refuse one.
        with h5py.File(path, "r", locking=False) as file:
            stored = _stored_field(path, file)
    except OSError as error:
        raise MachineError(f"{path}: not a whole HDF5 file ({error}); {remedy(path)}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MachineError(
            f"{path}: not a symbench field, or one whose description is broken; {remedy(path)}"
        ) from error
    if verify and checksum(stored.field.numpy()) != stored.checksum:
        raise MachineError(f"{path}: the field does not match its checksum, it was altered or damaged; {remedy(path)}")
    return stored


def on_grid(stored: StoredField, grid: Grid) -> StoredField:
    """`stored` with the velocity on `grid`; staggered faces are averaged to cell centres.

    The checksum is that of the file. UserError: `grid` is staggered and the file holds cell centres.
    """
    if stored.grid == grid:
        return stored
    if grid == "staggered":
        raise UserError(f"{stored.path}: {stored.dataset} is given at cell centres and has no staggered grid")
    return replace(stored, field=to_cell_centers(stored.field, tuple(stored.components.values())), grid=grid)


def checksum(field: NDArray[np.float32]) -> str:
    """Hex sha256 over the shape and the little-endian bytes of the field."""
    digest = hashlib.sha256(json.dumps(field.shape).encode())
    digest.update(np.ascontiguousarray(field, "<f4").data)
    return digest.hexdigest()


def remedy(path: Path) -> str:
    """Advice for a broken file: delete it, and the command that makes it."""
    return f"delete it; {_origin(path)} again"


def _hdf5(field: NDArray[np.float32], attributes: Mapping[str, Any]) -> memoryview:
    """Bytes of the file, made in memory, because HDF5 cannot close a file on a full disk."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("field", data=field)
        file.attrs.update(sorted(attributes.items()))
    return buffer.getbuffer()


def _stored_field(path: Path, file: h5py.File) -> StoredField:
    attributes = file.attrs
    if attributes["format"] != FORMAT:
        raise ValueError("another format")
    if attributes["format_version"] != FORMAT_VERSION:
        version = attributes["format_version"]
        raise MachineError(f"{path}: written in format {version}, this symbench reads {FORMAT_VERSION}; {remedy(path)}")
    field, kind = array(file, "field"), str(attributes.get("kind", "field"))  # files from before particles lack it
    if field.dtype != np.float32 or field.ndim != len(STORAGE[kind].axes):
        raise ValueError("field of another type or shape")
    errors = json.loads(attributes["equivariance_errors"])
    return StoredField(
        path=path,
        dataset=str(attributes["dataset"]),
        preset=str(attributes["preset"]),
        level=json.loads(attributes["level"]),
        kind=kind,
        components=json.loads(attributes[COMPONENTS]) if COMPONENTS in attributes else STORAGE[kind].usual_components,
        field=torch.from_numpy(field),
        grid=cast(Grid, attributes["grid"]),
        divergence_free=bool(attributes["divergence_free"]),
        spacing=float(attributes["spacing"]),
        time_step=float(attributes["time_step"]),
        parameters=json.loads(attributes["parameters"]),
        run_parameters=tuple(json.loads(attributes["run_parameters"])),
        equivariance_errors=tuple(EquivarianceError(**error) for error in errors),
        strict_floor=StrictFloor.of(json.loads(attributes[FLOOR])) if FLOOR in attributes else None,
        libraries=json.loads(attributes["libraries"]),
        recipe=str(attributes["recipe"]),
        checksum=str(attributes["checksum"]),
    )
