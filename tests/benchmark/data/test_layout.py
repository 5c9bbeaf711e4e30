"""Data files: a round trip, and the refusal of damaged files."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support import full_disk
from swirls import simulation, write_swirls

from benchmark.data import layout
from benchmark.data.paths import data_path
from benchmark.data.prepare import outline
from benchmark.errors import MachineError, UserError
from benchmark.groups import to_cell_centers

FIELD = np.random.default_rng(0).standard_normal((2, 5, 2, 8, 6)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_swirls(tmp_path, FIELD, "small", 3)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_path_of_a_level(tmp_path: Path) -> None:
    assert data_path(tmp_path, "toy", "small", 0.5) == tmp_path / "toy" / "small" / "level_0.5.h5"


def test_roundtrip(path: Path, tmp_path: Path) -> None:
    stored, written = layout.read(path), simulation(FIELD)
    assert stored.field.dtype == torch.float32
    assert np.array_equal(stored.field.numpy(), written.field)
    assert (stored.dataset, stored.preset, stored.level, stored.grid) == ("swirls", "small", 3, "staggered")
    assert (stored.spacing, stored.time_step) == (2.0, 0.5)
    assert stored.parameters == written.parameters
    assert list(stored.run_parameters) == written.run_parameters
    assert list(stored.equivariance_errors) == written.equivariance_errors
    assert (stored.mean_absolute_error, stored.mean_relative_error) == (0.5, 1.0)
    assert (stored.divergence_free, stored.recipe) == (True, "")
    assert stored.libraries["torch"]
    assert files_in(tmp_path) == ["swirls/small/level_3.h5"]


def test_an_imported_field_has_no_measured_error(tmp_path: Path) -> None:
    path = data_path(tmp_path, "toy", "imported", "paper")
    layout.write(
        path, "toy", "imported", "paper", simulation(equivariance_errors=(), divergence_free=False), "a recipe"
    )
    stored = layout.read(path)
    assert (stored.mean_absolute_error, stored.mean_relative_error, stored.recipe) == (None, None, "a recipe")
    assert not stored.divergence_free
    path.unlink()
    with pytest.raises(MachineError, match="`symbench data import toy FOLDER` makes it from the published files"):
        layout.read(path)


def test_the_field_is_contiguous_and_described(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["field"].chunks is None
        assert file["field"].compression is None
        assert '"component"' in file.attrs["axes"]
        assert "length" in file.attrs["units"]


def test_the_same_field_makes_the_same_file(path: Path, tmp_path: Path) -> None:
    assert write_swirls(tmp_path / "again", FIELD, "small", 3).read_bytes() == path.read_bytes()


def test_the_grid_that_a_cell_asks_for(path: Path, tmp_path: Path) -> None:
    field = torch.from_numpy(FIELD)
    assert torch.equal(layout.on_grid(layout.read(path), "staggered").field, field)
    centered = layout.on_grid(layout.read(path), "centered")
    assert torch.equal(centered.field, to_cell_centers(field))
    assert centered.grid == "centered"
    centers_only = write_swirls(tmp_path / "centers", FIELD, grid="centered")
    assert torch.equal(layout.on_grid(layout.read(centers_only), "centered").field, field)
    with pytest.raises(UserError, match="no staggered grid"):
        layout.on_grid(layout.read(centers_only), "staggered")


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "level_0.h5"
    with pytest.raises(MachineError) as caught:
        layout.read(path)
    assert str(caught.value) == f"{path}: no such data file; `symbench data prepare SUITE` makes it"


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated(path: Path, kept: float) -> None:
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(MachineError, match=r"level_3\.h5: not a whole HDF5 file"):
        layout.read(path)


def test_an_altered_byte(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["field"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 101] ^= 1
    path.write_bytes(content)
    with pytest.raises(MachineError, match=r"level_3\.h5: the field does not match its checksum"):
        layout.read(path)
    assert layout.read(path, verify=False).field.shape == (2, 5, 2, 8, 6)


def reshape(file: h5py.File) -> None:
    field = file["field"][()]
    del file["field"]
    file["field"] = field.reshape(5, 2, 2, 8, 6)


def instead(put: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    """Put something else into the place of the field."""

    def change(file: h5py.File) -> None:
        del file["field"]
        put(file)

    return change


HOSTILE = {
    "loop of links": instead(lambda file: file.__setitem__("field", h5py.SoftLink("/field"))),
    "link to another file": instead(lambda file: file.__setitem__("field", h5py.ExternalLink("/etc/passwd", "/field"))),
    "no dataset": instead(lambda file: file.create_group("field")),
    "72 TiB": instead(lambda file: file.create_dataset("field", (2**44, 1, 1, 1, 1), "f4", chunks=(64, 1, 1, 1, 1))),
    "compressed": instead(lambda file: file.create_dataset("field", (1, 1, 2, 2**10, 2**10), "f4", compression=9)),
    "deep description": lambda file: file.attrs.update(run_parameters="[" * 20_000 + "]" * 20_000),
}
"""Files that would be followed elsewhere, fill the memory, or end in a traceback."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reshape, "checksum"),
        *(pytest.param(change, "not a symbench field", id=name) for name, change in HOSTILE.items()),
        (lambda file: file.attrs.update(format_version=99), "written in format 99"),
        *(
            (lambda file, name=name: file.attrs.pop(name), "not a symbench field")
            for name in ("format", "grid", "checksum", "equivariance_errors")
        ),
    ],
)
def test_altered_descriptions(path: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(MachineError, match=message):
        layout.read(path)


def test_foreign_files(tmp_path: Path) -> None:
    text = tmp_path / "notes.h5"
    text.write_text("not HDF5")
    with pytest.raises(MachineError, match=r"notes\.h5: not a whole HDF5 file"):
        layout.read(text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["field"] = np.zeros((2, 3))
    with pytest.raises(MachineError, match=r"foreign\.h5: not a symbench field"):
        layout.read(foreign)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"new\.h5: cannot be written: File too large"), full_disk():
        layout.write(tmp_path / "new.h5", "toy", "small", 3, simulation(FIELD))
    assert files_in(tmp_path) == []


def test_a_failed_write_keeps_what_was_there(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def refuse(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_swirls(tmp_path, FIELD, "small", 3)
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["swirls/small/level_3.h5"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("a file is in the way")
    with pytest.raises(MachineError, match="cannot be written"):
        layout.write(tmp_path / "toy" / "small" / "level_0.h5", "toy", "small", 0, simulation())
    with pytest.raises(MachineError, match="cannot write there"):
        outline("smoke_rotation_levels", "small", [0], tmp_path / "toy")
