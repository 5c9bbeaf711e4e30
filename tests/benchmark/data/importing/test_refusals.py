"""Import of files that cannot be used: one line says what is wrong, and nothing is left."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support import call, full_disk

TERMS = ("--source", "a test", "--licence", "unknown")
FLOW = np.random.default_rng(0).standard_normal((4, 20, 12, 8, 2)).astype(np.float32)
pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMBENCH_STORE", raising=False)


def refusal(*arguments: str, name: str = "other") -> str:
    """Message of an import that ends with status 2 and leaves nothing."""
    done = call(["symbench", "data", "import", *arguments, "--as", name, *TERMS])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert not Path(f"{name}.py").exists()
    assert not [path for path in Path("runs").rglob("*") if path.is_file() and "other" in path.parts]
    return done.stderr


def test_what_is_no_velocity_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "well.h5", "w") as file:
        file["t0_fields/density"], file["t1_fields/velocity"] = FLOW[..., 0], FLOW
    possible = "a velocity of two components, scalars that --scalar names, or both"
    for fields in ("density", "velocity,density"):
        assert "vectors: velocity; scalars: density" in (message := refusal("well.h5", "--field", fields))
        assert possible in message
    with h5py.File(tmp_path / "gas.h5", "w") as file:
        file["Vx"], file["Vy"], file["density"] = FLOW[..., 0], FLOW[..., 1], FLOW[..., 0]
    assert "has Vx, Vy, density; --field may be Vx,Vy, --scalar any other" in refusal("gas.h5", "--field", "density")
    np.save(tmp_path / "scalar.npy", FLOW[..., 0])
    np.save(tmp_path / "three.npy", np.zeros((2, 20, 8, 8, 3)))
    assert possible in refusal("scalar.npy", "--axes", "ntxy")
    assert "3 components" in refusal("three.npy", "--axes", "ntxyc")
    with h5py.File(tmp_path / "tensor.h5", "w") as file:
        file["tensor"] = FLOW[..., 0]
    assert "a scalar" in refusal("tensor.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flow.npy",), r"for the shape \(4, 20, 12, 8, 2\); --axes ntxyc: run, time"),
        (("flow.npy", "--axes", "ntxy"), "1 arrays with the axes ntxy are no velocity"),
        (("flow.npy", "--axes", "tnxycc"), "--axes tnxycc: must have t, x and y once"),
        (("flow.npy", "--axes", "ntxyc", "--field", "u,v"), "has one array, without a name: no --field is needed"),
        (("flow.npy", "--axes", "cntxy"), "has 4 components"),
        (("nowhere", "--axes", "ntxyc"), "nowhere: no such file or folder"),
        (("empty", "--axes", "ntxyc"), "holds 0 files .npy, .npz, .h5"),
        (("flow.h5", "--axes", "ntxyc"), "has velocity; --axes is for arrays that --field and --scalar name"),
        (("flow.csv", "--axes", "ntxyc"), "flow.csv: is no file of .npy, .npz"),
        (("two.h5",), "has the vectors current, momentum; --field must name one of them"),
        (("flow.npy", "--axes", "ntxyc", "--frames", "9:"), "shortest run has 11 frames; 18 and more are needed"),
        (("flow.npy", "--axes", "ntxyc", "--frames", "a"), "--frames a: must be FIRST:END"),
        (("flow.npy", "--axes", "ntxyc", "--coarsen", "3"), "does not divide the grid of 12 x 8"),
        (("flow.npy", "--axes", "ntxyc", "--train-runs", "9"), "--train-runs 9 is more than the 3 runs"),
        (("flow.npy", "--axes", "ntxyc", "--train-on", "sim"), "--train-on sim names 0 of 4 runs"),
        (("flow.npy", "fewer.npy", "--axes", "ntxyc"), "have different numbers of runs"),
        (("flow.npy", "flow.npy", "--axes", "ntxyc", "--levels", "1,0"), "--levels 1,0: must be 2 rising numbers"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "flow.npy", FLOW)
    np.save(tmp_path / "fewer.npy", FLOW[:3])
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        file["velocity"] = FLOW
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["t1_fields/momentum"] = file["t1_fields/current"] = FLOW
    (tmp_path / "flow.csv").touch()
    (tmp_path / "empty").mkdir()
    assert re.search(message, refusal(*arguments))


def test_source_licence_and_a_free_name_are_needed(tmp_path: Path) -> None:
    np.save(tmp_path / "flow.npy", FLOW)
    arguments = ["symbench", "data", "import", "flow.npy", "--axes", "ntxyc", "--as"]
    assert "--source must name the source" in call([*arguments, "flows"]).stderr
    assert "--licence must name" in call([*arguments, "flows", "--source", "me", "--licence", " "]).stderr
    assert "a dataset named 'beta_plane' exists" in call([*arguments, "beta_plane", *TERMS]).stderr
    assert "give --as NAME" in call(["symbench", "data", "import", "flow.npy"]).stderr
    published = ["symbench", "data", "import", "jetflow", "folder"]
    assert "--as NAME is missing" in call([*published, "--coarsen", "2"]).stderr


def loop(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "around").symlink_to(folder / "bad")
    (folder / "bad" / "self.npy").symlink_to(folder / "bad" / "self.npy")


def pickled(folder: Path) -> None:
    np.save(folder / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)


def huge(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:  # no number of it is stored
        file.create_dataset("velocity", (100, 10**8, 64, 64, 2), "f4", chunks=(1, 1, 64, 64, 2))


def many(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file.create_dataset("velocity", (10**9, 20, 8, 8, 2), "f4", chunks=(1, 1, 8, 8, 2))


def wide(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file.create_dataset("velocity", (2, 20, 10**6, 10**6, 2), "f4", chunks=(1, 1, 64, 64, 2))


def linked(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file["velocity"] = h5py.ExternalLink("/etc/hostname", "/")
        file["tensor"] = h5py.SoftLink("/tensor")


def truncated(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file["velocity"] = FLOW
    os.truncate(folder / "bad.h5", 5000)


def cut(folder: Path) -> None:
    np.save(folder / "bad.npy", FLOW)
    os.truncate(folder / "bad.npy", 5000)


def no_archive(folder: Path) -> None:
    (folder / "bad.npz").write_bytes(b"PK\x03\x04 nothing")


def not_finite(folder: Path) -> None:
    flow = FLOW.copy()
    flow[1, 7, 3, 3, 0] = np.nan
    np.save(folder / "bad.npy", flow)


def still(folder: Path) -> None:
    np.save(folder / "bad.npy", np.zeros((2, 20, 8, 8, 2)))


def uneven(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file["Vx"], file["Vy"] = FLOW[..., 0], FLOW[..., 1]
        file["x-coordinate"], file["y-coordinate"], file["t-coordinate"] = range(12), np.arange(8) ** 1.1, range(21)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (loop, "self.npy: is a broken link"),
        (pickled, "cannot be read: (Array can't be memory-mapped: Python objects|Object arrays)"),
        (many, "has 1,000,000,000 runs"),
        (wide, "x and y have 4 to 8192 points"),
        (linked, "has nothing, and not the form"),
        (truncated, "cannot be read: .*truncated"),
        (cut, "cannot be read: mmap length"),
        (no_archive, "cannot be read: "),
        (not_finite, "run 1 has values that are not finite from frame 7 on"),
        (still, "is zero everywhere"),
        (uneven, "its points along y are not evenly spaced"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_cannot_be_used_gives_one_line(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    (bad,) = (path for path in tmp_path.iterdir() if path.name.startswith("bad"))
    axes = {".npz": ("--axes", "ntxy", "--field", "u,v"), ".h5": ()}.get(bad.suffix, ("--axes", "ntxyc"))
    assert re.search(message, refusal(bad.name, *axes))


def test_data_that_fit_nowhere_are_refused_before_they_are_read(tmp_path: Path) -> None:
    huge(tmp_path)
    done = call(["symbench", "data", "import", "bad.h5", "--as", "other", *TERMS])
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "GiB are needed in the memory" in done.stderr


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "flow.npy", FLOW)
    command = ["symbench", "data", "import", "flow.npy", "--axes", "ntxyc", "--as", "flows", *TERMS]
    with full_disk():
        done = call(command)
    assert (done.returncode, "cannot be written: File too large" in done.stderr) == (3, True)
    assert call(command).returncode == 0
