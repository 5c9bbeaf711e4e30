"""Arrays in files that others wrote, opened without reading them: .npy, .npz, HDF5, and Arrow files of RealPDEBench.

Nothing is unpickled and no link within a file is followed. The caller reads a few frames at a time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmark.data import hdf5
from benchmark.data.importing import arrow
from benchmark.data.importing.axes import listed
from benchmark.errors import UserError

HDF5 = (".h5", ".hdf5", ".hdf")
SUFFIXES = (".npy", ".npz", *HDF5, arrow.SUFFIX)
LARGEST_CHUNK = 2**30
"""Bytes of a chunk of HDF5, which is read whole."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """UserError, which names the file, for what readers raise on files that are damaged or something else."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{path}: an array of it does not fit into the memory") from error
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason}") from error


@contextmanager
def opened(path: Path, names: Sequence[str], run: int = 0) -> Iterator[list[Any]]:
    """Arrays `names` of a file, with `shape`, `dtype` and slices; of the row `run` of an Arrow file.

    UserError: the file cannot be read, or has no such array of numbers.
    """
    with readable(path):
        if path.suffix == ".npy":
            arrays = [np.load(path, mmap_mode="r", allow_pickle=False)]
        elif path.suffix == ".npz":
            arrays = _npz(path, names)
        elif path.suffix == arrow.SUFFIX:
            arrays = arrow.rows(path)[run].arrays(names)
        else:
            with h5py.File(path, "r", locking=False) as file:
                yield [_numbers(path, name, _dataset(file, name)) for name in names]
            return
        yield [_numbers(path, name, array) for name, array in zip(names or ("",), arrays, strict=True)]


def _npz(path: Path, names: Sequence[str]) -> list[Any]:
    """Arrays of an archive, each of which is read whole. UserError: it has no such array."""
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    for name in names:
        if name not in sizes:
            raise UserError(f"{path}: has no array {name!r}; it has {listed(sizes)}; --field names one, or two")
    with np.load(path, allow_pickle=False) as archive:
        return [archive[name] for name in names]


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Dataset by its path in the file. ValueError: it is a link, or its chunks are huge."""
    *groups, last = name.split("/")
    parent = file
    for group in groups:
        parent = hdf5.group(parent, group)
    dataset = hdf5.dataset(parent, last)
    if dataset.chunks is not None and np.prod(dataset.chunks, dtype=float) * dataset.dtype.itemsize > LARGEST_CHUNK:
        raise ValueError(f"{name} has chunks of more than {LARGEST_CHUNK // 2**30} GiB")
    return dataset


def _numbers(path: Path, name: str, array: Any) -> Any:
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name or 'its array'} holds {array.dtype}, and no real numbers")
    return array
