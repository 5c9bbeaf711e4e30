"""Reading of HDF5 files that others may have written: nothing is followed, and nothing larger than its file is read."""

from typing import Any

import h5py
from numpy.typing import NDArray


def array(parent: h5py.Group, name: str, index: Any = ()) -> NDArray[Any]:
    """Content of the dataset `name` in `parent`, or of `index` in it.

    ValueError: as in `dataset`, or it is larger than its file, which symbench never compresses.
    """
    stored = dataset(parent, name)
    if stored.nbytes > parent.file.id.get_filesize():
        raise ValueError(f"{name} has {stored.nbytes:,} bytes, more than its file")
    content: NDArray[Any] = stored[index]
    return content


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Dataset `name` in `parent`, unread. ValueError: it is a link, or lies in other files."""
    member = _own(parent, name)
    if not isinstance(member, h5py.Dataset) or member.is_virtual or member.external:
        raise ValueError(f"{name} is no dataset of this file")
    return member


def group(parent: h5py.Group, name: str) -> h5py.Group:
    """Group `name` in `parent`. ValueError: it is a link, or no group."""
    member = _own(parent, name)
    if not isinstance(member, h5py.Group):
        raise ValueError(f"{name} is no group")
    return member


def _own(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):  # None, a soft link or one to another file
        raise ValueError(f"{name} is missing, or a link")
    return parent[name]
