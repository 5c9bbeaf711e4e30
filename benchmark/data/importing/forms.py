"""Forms of files: where The Well, PDEBench, RealPDEBench and plain arrays have their fields, and in which order.

Layouts: docs/data_format.md of PolymathicAI/the_well; data_gen/src/data_io.py and data_gen_NLE/Data_Merge.py of
pdebench/PDEBench; utils/convert_hdf5_to_hf.py of AI4Science-WestlakeU/RealPDEBench.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data import hdf5
from benchmark.data.importing import arrays, arrow
from benchmark.data.importing.axes import EXAMPLE, POSSIBLE, Axes, listed
from benchmark.errors import UserError

UNEVEN = 1e-2
"""Largest deviation of a step of a coordinate from their mean, relative to it."""
RUNS, FRAMES, ROWS = "ntxyc", "ntxy", "tyx"
UV = ("u", "v")
DEFAULT_FIELD = "velocity"


@dataclass(frozen=True)
class Run:
    """Run `number` of a file, unread. None is what the file does not say.

    `fields` are the arrays of the velocity, with `axes`, and `scalars` those of scalars; without a velocity, `fields`
    is empty. So it is for the one array of a .npy, which has no name. `name` is the path within the imported folder,
    `grid` the points along x and y, `others` what is not imported.
    """

    file: Path
    name: str
    form: str
    fields: tuple[str, ...]
    axes: Axes
    number: int = 0
    frames: int = 0
    grid: tuple[int, int] = (0, 0)
    spacing: float | None = None
    time_step: float | None = None
    periodic: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()

    @property
    def has_velocity(self) -> bool:
        """Whether a velocity is read."""
        return bool(self.fields) or not self.scalars

    @property
    def sources(self) -> list[tuple[tuple[str, ...], Axes]]:
        """Names of arrays that are opened together, and their axes: of the velocity, then of the scalars."""
        if self.file.suffix == ".npy":
            return [((), self.axes)]
        velocity = [(self.fields, self.axes)] if self.has_velocity else []
        return velocity + ([(self.scalars, self.axes.of_scalars)] if self.scalars else [])

    def read(self, frames: slice, thin: int) -> NDArray[Any]:
        """Frames at every `thin`-th point, (time, component, x, y), not yet checked. UserError: the file is damaged."""
        parts = []
        for names, axes in self.sources:
            with arrays.opened(self.file, names, self.number) as opened:
                parts.append(axes.read(opened, self.number, frames, thin))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def runs_of(
    file: Path, name: str, fields: tuple[str, ...], axes: Axes | None, scalars: tuple[str, ...] = ()
) -> list[Run]:
    """Runs of a file, whose velocity is in the arrays `fields` with `axes`; without `axes`, the form says where it is.

    With `scalars` and no `fields`, the scalars alone are read. UserError: the file cannot be read, has no known form,
    or no such fields.
    """
    with arrays.readable(file):
        if file.suffix == arrow.SUFFIX:
            return list(_arrow(file, name, fields, axes, scalars))
        if file.suffix == ".npy" and (fields or len(scalars) > 1):
            raise UserError(
                f"{file}: has one array, without a name: no --field is needed; two arrays may be in one .npz"
            )
        named = fields or scalars
        if axes is not None and not named and file.suffix in arrays.HDF5:
            with h5py.File(file, "r", locking=False) as root:
                raise UserError(
                    f"{file}: has {listed(_members(root))}; --axes is for arrays that --field and --scalar name"
                )
        if axes is not None:
            axes = axes if fields or not scalars else axes.of_scalars
            return _all(Run(file, name, "arrays", fields, axes, scalars=scalars))
        if file.suffix not in arrays.HDF5:
            shapes = "" if file.suffix == ".npz" else f" for the shape {np.load(file, mmap_mode='r').shape}"
            raise UserError(f"{file}: --axes must say the order of the axes{shapes}; {EXAMPLE}")
        with h5py.File(file, "r", locking=False) as root:
            members = _members(root)
            if members & {"t0_fields", "t1_fields"}:
                run = _well(root, file, name, fields, scalars)
            elif "measured_data" in members:
                run = _measured(root, file, name, fields, scalars)
            elif members & {"velocity", "Vx", "tensor", "x-coordinate"}:
                run = _pdebench(root, members, file, name, fields, scalars)
            else:
                raise UserError(
                    f"{file}: has {listed(members)}, and not the form of The Well, PDEBench or RealPDEBench;"
                    " --field can name any array of it, and --axes the order of its axes"
                )
    return _all(run)


def _all(run: Run) -> list[Run]:
    """Runs of a file with the shape of its arrays."""
    kinds: list[dict[str, int]] = []
    units: set[str] = set()
    for names, axes in run.sources:
        with arrays.opened(run.file, names) as opened:
            where = f"{run.file}: {' and '.join(names)}".removesuffix(": ")
            if run.has_velocity and not kinds:
                kinds.append(axes.sizes([array.shape for array in opened], where))
                units = {unit for array in opened if (unit := _units(array))}
            else:
                scalars = zip(run.scalars, opened, strict=True)
                kinds += [axes.sizes_of_array(array.shape, f"{run.file}: {name}") for name, array in scalars]
    if len(units) > 1:
        raise UserError(f"{run.file}: its components have different units, {' and '.join(sorted(units))}")
    sizes = {letter: size for letter, size in kinds[0].items() if letter != "c"}
    for other in kinds[1:]:
        if other != sizes:
            raise UserError(f"{run.file}: a scalar has the sizes {other}, and the first array {sizes}")
    run = replace(run, frames=sizes["t"], grid=(sizes["x"], sizes["y"]))
    if units:
        run = replace(run, parameters={**run.parameters, "units": units.pop()})
    return [replace(run, number=number) for number in range(sizes.get("n", 1))]


def _well(root: h5py.File, file: Path, name: str, fields: tuple[str, ...], wanted: tuple[str, ...]) -> Run:
    scalars, vectors, tensors = (_group_members(root, f"t{rank}_fields") for rank in range(3))
    has = f"vectors: {listed(vectors)}; scalars: {listed(scalars)}"
    if not set(wanted) <= scalars:
        raise UserError(f"{file}: {' and '.join(wanted)} must be scalars of t0_fields ({has})")
    chosen = fields
    if not fields and not wanted:
        chosen = (DEFAULT_FIELD,) if DEFAULT_FIELD in vectors else tuple(sorted(vectors))
        if len(chosen) > 1:
            raise UserError(f"{file}: has the vectors {listed(chosen)}; --field must name one of them")
    if chosen not in [(vector,) for vector in vectors] and not (wanted and not fields):
        raise UserError(f"{file}: {' and '.join(chosen) or 'there'} is no vector of t1_fields ({has}); {POSSIBLE}")
    dimensions = hdf5.group(root, "dimensions")
    spatial = [_text(dimension) for dimension in dimensions.attrs["spatial_dims"]]
    if len(spatial) != 2 or _text(root.attrs.get("grid_type", "cartesian")) != "cartesian":
        grid = _text(root.attrs.get("grid_type", "cartesian"))
        raise UserError(
            f"{file}: has a {listed([grid])} grid of {listed(spatial)}; symbench knows flat grids of two dimensions"
        )
    coordinates = [_values(dimensions, dimension) for dimension in spatial]
    edges = hdf5.group(root, "boundary_conditions")
    types = {_text(hdf5.group(edges, edge).attrs["bc_type"]).upper() for edge in _members(edges)}
    names = [_text(parameter) for parameter in root.attrs.get("simulation_parameters", ())]
    spacing, axes = _grid(file, RUNS, coordinates)
    return Run(
        file,
        name,
        "The Well",
        tuple(f"t1_fields/{vector}" for vector in chosen),
        axes if chosen else axes.of_scalars,
        spacing=spacing,
        time_step=_step(file, "time", _values(dimensions, "time"))[0],
        periodic=types == {"PERIODIC"},
        parameters={key: value for key in names if (value := _number(root.attrs.get(key))) is not None},
        others=tuple(sorted((scalars - set(wanted)) | tensors | (vectors - set(chosen)))),
        scalars=tuple(f"t0_fields/{scalar}" for scalar in wanted),
    )


def _pdebench(
    root: h5py.File, members: set[str], file: Path, name: str, wanted: tuple[str, ...], scalars: tuple[str, ...]
) -> Run:
    coordinates = [_values(root, f"{axis}-coordinate") for axis in "xyt" if f"{axis}-coordinate" in members]
    velocity = ("velocity",) if "velocity" in members else ("Vx", "Vy") if "Vx" in members else ("tensor",)
    fields = velocity if wanted or not scalars else ()
    if not {*fields, *scalars} <= members or wanted not in ((), velocity) or len(coordinates) not in (0, 3):
        raise UserError(
            f"{file}: has {listed(members)}; --field may be {','.join(velocity)}, --scalar any other; {POSSIBLE}"
        )
    if fields == ("tensor",) and hdf5.dataset(root, "tensor").ndim != len(RUNS):
        shape = hdf5.dataset(root, "tensor").shape
        raise UserError(f"{file}: tensor has the shape {shape}, a scalar; {POSSIBLE}")
    spacing, axes = _grid(file, RUNS if len(fields) == 1 else FRAMES, coordinates[:2])
    times = _values(root, "t") if "t" in members else (coordinates[2] if coordinates else np.empty(0))
    edge = [word for word in file.stem.split("_") if word in ("periodic", "trans")]
    known = {*fields, "t", "x-coordinate", "y-coordinate", "t-coordinate"}
    return Run(
        file,
        name,
        "PDEBench",
        fields,
        axes,
        spacing=spacing,
        time_step=_step(file, "time", times)[0],
        periodic=edge[0] == "periodic" if edge else None,
        others=tuple(sorted(members - known - set(scalars))),
        scalars=scalars,
    )


def _measured(root: h5py.File, file: Path, name: str, wanted: tuple[str, ...], scalars: tuple[str, ...]) -> Run:
    _require_no_scalars(file, scalars)
    measured = hdf5.group(root, "measured_data")
    members = _members(measured)
    if not set(UV) <= members or wanted not in ((), UV):
        raise UserError(f"{file}: measured_data has {listed(members)}, of which u and v are a velocity; {POSSIBLE}")
    places = {key: place for place in (measured, root) for key in _members(place)}
    grids = [_values(places[key], key) for key in "xy" if key in places]
    times = _values(places["t"], "t") if "t" in places else np.empty(0)
    run = Run(
        file,
        name,
        "RealPDEBench",
        tuple(f"measured_data/{component}" for component in UV),
        Axes(ROWS),
        others=tuple(members - set(UV)),
    )
    return _on_grid(run, grids, times)


def _require_no_scalars(file: Path, scalars: tuple[str, ...]) -> None:
    if scalars:
        raise UserError(f"{file}: is in the form of RealPDEBench, of which u and v alone are read, without --scalar")


def _arrow(
    file: Path, name: str, wanted: tuple[str, ...], axes: Axes | None, scalars: tuple[str, ...]
) -> Iterator[Run]:
    _require_no_scalars(file, scalars)
    if wanted not in ((), UV):
        raise UserError(f"{file}: has {' and '.join(wanted)}, but u and v are the velocity; {POSSIBLE}")
    for number, row in enumerate(arrow.rows(file)):
        shapes = [velocity.shape for velocity in row.arrays(UV)]
        order = axes or Axes(ROWS)
        sizes = order.sizes(shapes, str(file))
        others = tuple({"p", "vo"} & set(row.columns))
        run = Run(file, f"{name}/{row.value('sim_id')}", "RealPDEBench", UV, order, number, others=others)
        run = replace(run, frames=sizes["t"], grid=(sizes["x"], sizes["y"]))
        grids = [row.numbers(key, "<f8") for key in "xy"]
        known = axes is None and all(grid.size == sizes["x"] * sizes["y"] for grid in grids)
        yield _on_grid(run, [grid.reshape(shapes[0][1:]) for grid in grids if known], row.numbers("t", "<f8"))


def _on_grid(run: Run, grids: Sequence[NDArray[Any]], times: NDArray[Any]) -> Run:
    """Run of RealPDEBench with the order of its rows and columns as `grids`, x and y at each point, have them."""
    if len(grids) == 2 and all(grid.ndim == 2 and min(grid.shape) > 1 for grid in grids):
        x, y = grids
        if abs(x[-1, 0] - x[0, 0]) > abs(x[0, -1] - x[0, 0]):  # x changes from row to row
            spacing, axes = _grid(run.file, "txy", (x[:, 0], y[0]))
            run = replace(run, axes=axes, spacing=spacing, grid=run.grid[::-1])
        else:
            spacing, axes = _grid(run.file, ROWS, (x[0], y[:, 0]))
            run = replace(run, axes=axes, spacing=spacing)
    return replace(run, time_step=_step(run.file, "time", times)[0])


def _grid(file: Path, letters: str, coordinates: Sequence[NDArray[Any]]) -> tuple[float | None, Axes]:
    """Width of a cell, and axes with the directions of the coordinates of x and y, if there are any.

    UserError: points that are not evenly spaced, or cells that are not square.
    """
    steps = [_step(file, axis, values) for axis, values in zip("xy", coordinates, strict=False)]
    widths = [width for width, _ in steps if width is not None]
    if len(widths) != 2:
        return None, Axes(letters)
    if abs(widths[0] - widths[1]) > UNEVEN * widths[0]:
        raise UserError(f"{file}: its cells are {widths[0]:.4g} x {widths[1]:.4g}; symbench knows square cells alone")
    falling = [axis for axis, (_, rises) in zip("xy", steps, strict=True) if not rises]
    return widths[0], Axes(letters, frozenset(falling))


def _step(file: Path, what: str, values: NDArray[Any]) -> tuple[float | None, bool]:
    """Distance of neighbours, and whether they rise; None if there are less than two. UserError: they are not even."""
    if values.ndim == 2:  # one row for each run
        values = values[0]
    steps = np.diff(values.astype(np.float64))
    if not len(steps):
        return None, True
    mean = float(steps.mean())
    if not math.isfinite(mean) or mean == 0 or np.abs(steps / mean - 1).max() > UNEVEN:
        raise UserError(f"{file}: its points along {what} are not evenly spaced; symbench knows even ones alone")
    return abs(mean), mean > 0


def _values(parent: h5py.Group, name: str) -> NDArray[Any]:
    """Small array of coordinates; of one that has a row for each run or frame, the first rows."""
    values = hdf5.dataset(parent, name)
    if values.ndim == 0 or math.prod(values.shape[-2:]) > 2**26:
        raise ValueError(f"{name} has the shape {values.shape}, and is no coordinate")
    return np.asarray(values[(0,) * (values.ndim - 2)])


def _units(array: Any) -> str:
    return _text(getattr(array, "attrs", {}).get("units", ""))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    """Finite number of an attribute, or None."""
    one = np.asarray(value)
    return float(one) if one.dtype.kind in "fiu" and one.ndim == 0 and np.isfinite(one) else None


def _members(group: h5py.Group) -> set[str]:
    """Names in a group, without links."""
    return {name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)}


def _group_members(root: h5py.Group, name: str) -> set[str]:
    return _members(hdf5.group(root, name)) if name in _members(root) else set()
