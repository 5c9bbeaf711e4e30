"""Arrays in files that others wrote, opened without reading them: .npy, .npz, HDF5, and Arrow files of RealPDEBench.

Nothing is unpickled and no link within a file is followed. The caller reads a few frames at a time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from benchmark.data import hdf5
from benchmark.data.importing import arrow
from benchmark.data.importing.axes import listed
from benchmark.errors import SymbenchError, UserError

HDF5 = (".h5", ".hdf5", ".hdf")
SUFFIXES = (".npy", ".npz", *HDF5, arrow.SUFFIX)
LARGEST_CHUNK = 2**30
"""Bytes of a chunk of HDF5, which is read whole."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """UserError, which names the file, for the errors of readers."""
    try:
        yield
    except SymbenchError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: an array of it does not fit into memory") from error
    except Exception as error:  # h5py, numpy, zipfile and pyarrow raise almost anything on altered bytes
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
            arrays = _npz(path, tuple(names), path.stat().st_mtime_ns)
        elif path.suffix == arrow.SUFFIX:
            arrays = arrow.rows(path)[run].arrays(names)
        else:
            with h5py.File(path, "r", locking=False) as file:
                yield [_numbers(path, name, _dataset(file, name)) for name in names]
            return
        yield [_numbers(path, name, array) for name, array in zip(names or ("",), arrays, strict=True)]


@lru_cache(maxsize=1)  # else each block of frames would read it again
def _npz(path: Path, names: tuple[str, ...], modified: int) -> list[Any]:
    """Arrays of an archive, which are read whole. UserError: it has no such array, or they do not fit into memory."""
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
    if not names or not set(names) <= set(sizes):
        raise UserError(f"{path}: has the arrays {listed(sizes)}; --field must name one of them, or two")
    if sum(sizes[name] for name in names) > psutil.virtual_memory().available:
        raise UserError(
            f"{path}: its arrays, which are read whole, do not fit into memory; as .npy they would be read in parts"
        )
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
