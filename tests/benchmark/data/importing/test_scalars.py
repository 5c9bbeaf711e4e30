"""Import of scalars, beside a velocity and alone: in each form they come back where they belong, in a known unit."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from support import call

from benchmark.data.layout import StoredField, read

RUNS, FRAMES, HEIGHT, WIDTH = 4, 20, 12, 8
TERMS = ("--source", "a 'test'", "--licence", "CC-BY-4.0")
FLOW = np.random.default_rng(0).standard_normal((RUNS, FRAMES, 2, HEIGHT, WIDTH)).astype("f4")
RUN_TIME_X_Y_COMPONENT = np.moveaxis(FLOW, 2, -1)
pytestmark = pytest.mark.usefixtures("_here")
HEAT = 300 + np.linspace(-5, 5, RUNS * FRAMES * HEIGHT * WIDTH).reshape(RUNS, FRAMES, HEIGHT, WIDTH) ** 3


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMBENCH_STORE", raising=False)


def imported(*arguments: str) -> StoredField:
    done = call(["symbench", "data", "import", *arguments, "--as", "mixed", *TERMS])
    assert done.returncode == 0, done.stderr
    return read(Path("runs/data/mixed/imported/level_0.h5"))


def well(file: h5py.File, fields: dict[str, object]) -> None:
    file.attrs.update(grid_type="cartesian", n_spatial_dims=2)
    file.create_group("dimensions").attrs["spatial_dims"] = ["x", "y"]
    file["dimensions/x"], file["dimensions/y"] = np.arange(HEIGHT), np.arange(WIDTH)
    file["dimensions/time"] = np.arange(FRAMES)
    file.create_group("boundary_conditions/x").attrs["bc_type"] = "PERIODIC"
    for name, values in fields.items():
        file[name] = values


def write_well() -> list[str]:
    with h5py.File("well.h5", "w") as file:
        well(file, {"t1_fields/velocity": RUN_TIME_X_Y_COMPONENT, "t0_fields/heat": HEAT, "t0_fields/more": HEAT})
    return ["well.h5"]


def write_gas() -> list[str]:
    """A last axis of one number, as that of the particles of PDEBench's incompressible flows."""
    with h5py.File("gas.h5", "w") as file:
        file["velocity"], file["heat"] = RUN_TIME_X_Y_COMPONENT, HEAT[..., None]
    return ["gas.h5"]


def write_rows() -> list[str]:
    """Images: rows from the top."""
    images = np.swapaxes(FLOW, -1, -2)[..., ::-1, :]
    heat = np.swapaxes(HEAT, -1, -2)[..., ::-1, :]
    np.savez("rows.npz", u=images[:, :, 0], v=images[:, :, 1], heat=heat)
    return ["rows.npz", "--axes", "nt-yx"]


@pytest.mark.parametrize(
    ("write", "velocity"), [(write_well, "velocity"), (write_gas, "velocity"), (write_rows, "u,v")]
)
def test_a_scalar_comes_back_beside_the_velocity(write, velocity: str) -> None:  # type: ignore[no-untyped-def]
    stored = imported(*write(), "--field", velocity, "--scalar", "heat")
    field = stored.field.numpy()
    order = [run["run"] for run in stored.run_parameters]
    assert stored.components == {"velocity": "vector", "heat": "scalar"}
    assert np.array_equal(field[:, :, :2], FLOW[order])
    scale = np.corrcoef(field[:, :, 2].ravel(), HEAT[order].ravel())[0, 1]
    assert scale == pytest.approx(1, abs=1e-6)
    trained = field[:3]
    assert np.sqrt((trained[:, :, :2] ** 2).mean()) == pytest.approx(trained[:, :, 2].std(), rel=0.1)
    assert stored.parameters["stored_heat"].startswith("(value - ")
    offset, unit = (float(part) for part in stored.parameters["stored_heat"].removeprefix("(value - ").split(") / "))
    assert field[:, :, 2] * unit + offset == pytest.approx(HEAT[order], rel=1e-4)


def test_scalars_alone(tmp_path: Path) -> None:
    stored = imported(*write_well(), "--scalar", "heat", "--scalar", "more")
    assert stored.components == {"heat": "scalar", "more": "scalar"}
    assert stored.field.shape == (RUNS, FRAMES, 2, HEIGHT, WIDTH)
    assert float(stored.field[:3].std()) == pytest.approx(1, rel=0.1)
    assert "divergence = {}" in Path("mixed.py").read_text()
    checked = call(["symbench", "check-dataset", "mixed.py"])
    assert checked.returncode == 0, checked.stdout
    assert "does not apply" in checked.stdout


def test_the_one_array_of_a_npy_may_be_a_scalar() -> None:
    np.save("heat.npy", np.swapaxes(HEAT, -1, -2))
    stored = imported("heat.npy", "--axes", "ntyx", "--scalar", "heat", "--coarsen", "2")
    assert stored.components == {"heat": "scalar"}
    coarse = HEAT.reshape(RUNS, FRAMES, HEIGHT // 2, 2, WIDTH // 2, 2).mean((3, 5))
    order = [run["run"] for run in stored.run_parameters]
    assert np.corrcoef(stored.field.numpy().ravel(), coarse[order].ravel())[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scalar", "nothing"), "nothing must be scalars of t0_fields (vectors: velocity; scalars: heat, more)"),
        (("--scalar", "heat", "--scalar", "heat"), "must be different names, none of them velocity"),
        (("--field", "velocity", "--scalar", "velocity"), "must be different names, none of them velocity"),
        (("--axes", "ntxy", "--scalar", "t1_fields/velocity"), "must be different names"),
        (("--axes", "ntxy", "--scalar", "dimensions/x"), "and not the 4 axes ntxy"),
        (("--axes", "ntxy", "--scalar", "flat"), "flat is constant"),
    ],
)
def test_wrong_scalars_are_refused(arguments: tuple[str, ...], message: str) -> None:
    write_well()
    with h5py.File("well.h5", "a") as file:
        file["flat"] = np.full_like(HEAT, 7.0)
    done = call(["symbench", "data", "import", "well.h5", *arguments, "--as", "mixed", *TERMS])
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path("mixed.py").exists()


def test_a_board_of_mixed_fields_names_who_cannot_take_them() -> None:
    imported(*write_well(), "--field", "velocity", "--scalar", "heat")
    suite = Path("mixed.yaml")
    text = suite.read_text().replace("models:\n", "models:\n  - sesn: {hidden: 4}\n  - linear\n")
    suite.write_text(text.replace("epochs: 4", "epochs: 1").replace("seeds: [0, 1]", "seeds: [0]"))
    run = call(["symbench", "run", "mixed.yaml", "--parallel", "1"])
    assert run.returncode == 0, run.stderr
    assert "acts on one velocity, mixed has vector, scalar" in run.stdout + run.stderr
    board = call(["symbench", "leaderboard", "mixed.yaml", "--html", "mixed.html"])
    assert board.returncode == 0, board.stderr
    assert "acts on one velocity" in Path("mixed.html").read_text()
    card = call(["symbench", "data", "card", "mixed.yaml"])
    assert card.returncode == 0, card.stderr
    text = Path("runs/data/mixed/imported/README.md").read_text()
    assert "velocity (components 0 and 1: a vector in length / time) and heat (component 2: a scalar)" in text
