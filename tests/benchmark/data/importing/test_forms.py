"""Import of data of others: one flow, written in each form, comes back with x and y, u and v where they belong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from support import call

from benchmark.data.importing import converting, forms
from benchmark.data.layout import StoredField, read

RUNS, FRAMES, HEIGHT, WIDTH = 4, 20, 12, 8
SPACING, TIME_STEP = 0.5, 0.25
TERMS = ("--source", "a 'test'", "--licence", "CC-BY-4.0")
Writer = Callable[[Path], list[str]]
pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMBENCH_STORE", raising=False)


def coordinates() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return SPACING * np.arange(HEIGHT), SPACING * np.arange(WIDTH)


def flow(runs: int = RUNS) -> NDArray[np.float32]:
    """A vortex near the lower left corner that turns counter-clockwise and wanders along x: (run, time, 2, x, y).

    u = -(y - b) f(r), v = (x - a) f(r): no divergence, and the curl is positive at the centre.
    """
    x, y = np.meshgrid(*coordinates(), indexing="ij")
    fields = []
    for run in range(runs):
        frames = []
        for frame in range(FRAMES):
            from_x, from_y = x - 1.5 - 0.05 * frame, y - 1.0
            strength = (run + 1) * np.exp(-(from_x**2 + from_y**2))
            frames.append([-from_y * strength, from_x * strength])
        fields.append(frames)
    return np.array(fields, np.float32)


FLOW = flow()
RUN_TIME_X_Y_COMPONENT = np.moveaxis(FLOW, 2, -1)


def well(folder: Path) -> list[str]:
    """File of 3 runs that are trained on, and one with an unseen run, along whose second axis y falls."""
    x, y = coordinates()
    for part, runs, rows in (("train", slice(0, 3), slice(None)), ("test", slice(3, 4), slice(None, None, -1))):
        (folder / "well" / part).mkdir(parents=True)
        velocity = RUN_TIME_X_Y_COMPONENT[runs, :, :, rows]
        with h5py.File(folder / "well" / part / "flow.hdf5", "w") as file:
            file.attrs.update(grid_type="cartesian", n_spatial_dims=2, simulation_parameters=["Re"], Re=7.0)
            dimensions = file.create_group("dimensions")
            dimensions.attrs["spatial_dims"] = ["x", "y"]
            dimensions["x"], dimensions["y"], dimensions["time"] = x, y[rows], TIME_STEP * np.arange(FRAMES)
            for axis in "xy":
                file.create_group(f"boundary_conditions/{axis}").attrs["bc_type"] = "PERIODIC"
            file["t0_fields/density"] = velocity[..., 0]
            stored = file.create_dataset("t1_fields/velocity", data=velocity, compression="gzip")
            stored.attrs["units"] = "m/s"
    return ["well"]


def incompressible(folder: Path) -> list[str]:
    with h5py.File(folder / "ns-1.h5", "w") as file:
        file.create_dataset("velocity", data=RUN_TIME_X_Y_COMPONENT, compression="lzf", shuffle=True)
        file["particles"] = RUN_TIME_X_Y_COMPONENT[..., :1]
        file["force"], file["t"] = RUN_TIME_X_Y_COMPONENT[:, 0], TIME_STEP * np.arange(FRAMES)[None].repeat(RUNS, 0)
    return ["ns-1.h5", "--spacing", str(SPACING), "--periodic"]


def _with_coordinates(file: h5py.File) -> None:
    file["x-coordinate"], file["y-coordinate"] = coordinates()
    file["t-coordinate"] = TIME_STEP * np.arange(FRAMES + 1)


def compressible(folder: Path) -> list[str]:
    with h5py.File(folder / "2D_CFD_M0.1_periodic_Train.hdf5", "w") as file:
        file["Vx"], file["Vy"], file["density"] = FLOW[:, :, 0], FLOW[:, :, 1], FLOW[:, :, 0]
        _with_coordinates(file)
    return ["2D_CFD_M0.1_periodic_Train.hdf5"]


def tensor(folder: Path) -> list[str]:
    with h5py.File(folder / "2D_flow_periodic.hdf5", "w") as file:
        file["tensor"] = RUN_TIME_X_Y_COMPONENT
        _with_coordinates(file)
    return ["2D_flow_periodic.hdf5"]


def rows_and_columns(run: int) -> dict[str, NDArray[Any]]:
    """A run as it is measured: rows from the top, where y is large, to the bottom."""
    x, y = (grid.T[::-1] for grid in np.meshgrid(*coordinates(), indexing="ij"))
    u, v = FLOW[run].transpose(1, 0, 3, 2)[:, :, ::-1]
    return {"u": u, "v": v, "x": x, "y": y, "t": TIME_STEP * np.arange(FRAMES)}


def measured(folder: Path) -> list[str]:
    """Three simulated runs with twice as many rows and columns, and a measured one."""
    for run in range(RUNS):
        kind = "real" if run == 3 else "numerical"
        (folder / "cylinder" / kind).mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / "cylinder" / kind / f"{1000 + run}.h5", "w") as file:
            arrays = rows_and_columns(run)
            if kind == "numerical":
                arrays |= {key: arrays[key].repeat(2, -1).repeat(2, -2) for key in "uv"}
                fine = [SPACING / 2 * np.arange(2 * size) for size in (HEIGHT, WIDTH)]
                arrays["x"], arrays["y"] = (grid.T[::-1] for grid in np.meshgrid(*fine, indexing="ij"))
                file["measured_data/p"] = arrays["u"]
            for key, array in arrays.items():
                file[f"measured_data/{key}" if key in "uv" else key] = array
    return ["cylinder", "--periodic"]


def arrow(folder: Path) -> list[str]:
    """Tables as `datasets` saves them, with the arrays as bytes."""
    for kind, runs in (("numerical", range(3)), ("real", range(3, 4))):
        (folder / "hf_dataset" / kind).mkdir(parents=True)
        columns: dict[str, list[Any]] = {"sim_id": [f"{run}.h5" for run in runs]}
        for key, dtype in {"u": "<f4", "v": "<f4", "x": "<f8", "y": "<f8", "t": "<f8"}.items():
            columns[key] = [rows_and_columns(run)[key].astype(dtype).tobytes() for run in runs]
        for axis, size in {"t": FRAMES, "h": WIDTH, "w": HEIGHT}.items():
            columns[f"shape_{axis}"] = [size] * len(runs)
        table = pyarrow.table(columns)
        path = folder / "hf_dataset" / kind / "data-00000-of-00001.arrow"
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return ["hf_dataset", "--periodic"]


PLAIN = ("--spacing", str(SPACING), "--time-step", str(TIME_STEP), "--periodic", "--axes")


def one_array(folder: Path) -> list[str]:
    np.save(folder / "flow.npy", RUN_TIME_X_Y_COMPONENT.astype(np.float64))
    return ["flow.npy", *PLAIN, "ntxyc"]


def image_order(folder: Path) -> list[str]:
    """A file for each run; rows are y from the top, and v stands before u."""
    (folder / "images").mkdir()
    for run in range(RUNS):
        array = FLOW[run].transpose(0, 3, 2, 1)[:, ::-1, :, ::-1]
        np.save(folder / "images" / f"run_{run}.npy", array)
    return ["images", *PLAIN, "t-yx-c"]


def two_arrays(folder: Path) -> list[str]:
    ux, uy = FLOW.transpose(2, 3, 4, 1, 0)
    np.savez_compressed(folder / "flow.npz", ux=ux, uy=uy)
    return ["flow.npz", *PLAIN, "xytn", "--field", "ux,uy"]


def nested_hdf5(folder: Path) -> list[str]:
    with h5py.File(folder / "own.h5", "w") as file:
        file["results/flow"] = FLOW.transpose(0, 2, 1, 3, 4)
    return ["own.h5", *PLAIN, "nctxy", "--field", "results/flow"]


WRITERS = (
    *(well, incompressible, compressible, tensor, measured, arrow),
    *(one_array, image_order, two_arrays, nested_hdf5),
)


def imported(*arguments: str) -> StoredField:
    done = call(["symbench", "data", "import", *arguments, "--as", "flows", *TERMS])
    assert done.returncode == 0, done.stderr + done.stdout
    return read(Path("runs/data/flows/imported/level_0.h5"))


def curl_and_divergence(field: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    along_x = lambda values: (values[..., 2:, 1:-1] - values[..., :-2, 1:-1]) / (2 * SPACING)  # noqa: E731
    along_y = lambda values: (values[..., 1:-1, 2:] - values[..., 1:-1, :-2]) / (2 * SPACING)  # noqa: E731
    return along_x(v) - along_y(u), along_x(u) + along_y(v)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_flow_comes_back_from_each_form(write: Writer, tmp_path: Path) -> None:
    stored = imported(*write(tmp_path))
    field = stored.field.numpy().astype(np.float64)
    order = {"unseen last": range(RUNS), "every fourth unseen": (0, 1, 3, 2)}
    runs = order["unseen last" if write in (well, measured, arrow) else "every fourth unseen"]
    np.testing.assert_array_equal(field, FLOW[list(runs)])
    curl, divergence = curl_and_divergence(field)
    assert (stored.spacing, stored.time_step, stored.grid) == (SPACING, TIME_STEP, "centered")
    assert curl[:, 0, 2, 1].min() > 1
    assert np.abs(divergence).mean() < 0.2 * np.abs(curl).mean()
    shares = stored.parameters["divergence"]
    assert shares["as imported"] == min(shares.values()) < min(set(shares.values()) - {shares["as imported"]}) / 2
    done = call(["symbench", "check-dataset", "flows.py"])
    assert done.returncode == 0, done.stdout
    assert "periodic = True" in Path("flows.py").read_text()


def test_the_first_suite_has_five_models_and_its_cells_run(tmp_path: Path) -> None:
    imported(*well(tmp_path))
    plan = call(["symbench", "plan", "flows.yaml"]).stdout
    assert all(model in plan for model in ("persistence", "convnet", "unet", "e2cnn", "relaxed_steerable_rotation"))
    done = call(["symbench", "run", "flows.yaml", "--only", "model=[persistence,convnet],seed=0", "--parallel", "1"])
    assert "2 cells run, 0 were finished, 0 failed" in done.stdout, done.stderr
    assert call(["symbench", "data", "check", "flows.yaml"]).stdout.endswith("level_0.h5: in order\n")


def test_a_model_of_simulated_runs_is_tested_on_measured_ones(tmp_path: Path) -> None:
    imported(*measured(tmp_path))
    assert call(["symbench", "run", "flows.yaml", "--only", "model=persistence", "--parallel", "1"]).returncode == 0
    (row,) = json.loads(call(["symbench", "leaderboard", "flows.yaml", "--only", "model=persistence", "--json"]).stdout)
    steps = row["protocol"]["test_steps"]
    starts = range(0, FRAMES - steps, steps // 2)
    errors = [FLOW[3, start + 1 : start + 1 + steps] - FLOW[3, start] for start in starts]
    assert row["metrics"]["rmse_domain"]["mean"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-5)


def test_the_card_names_source_licence_and_command(tmp_path: Path) -> None:
    stored = imported(*well(tmp_path))
    assert call(["symbench", "data", "card", "flows.yaml"]).returncode == 0
    card = (stored.path.parent / "README.md").read_text()
    command = "symbench data import well --as flows --source 'a '\"'\"'test'\"'\"'' --licence CC-BY-4.0"
    for part in ("Licence, as the import names it: CC-BY-4.0", "Source: a 'test'", f"    {command}", "density"):
        assert part in card
    assert stored.run_parameters[0] == {"file": "train/flow.hdf5", "run": 0, "Re": 7.0, "units": "m/s"}


def test_runs_frames_and_points_can_be_fewer(tmp_path: Path) -> None:
    options = ("--frames", "1:19", "--coarsen", "2", "--train-runs", "2", "--unseen-runs", "1")
    stored = imported(*well(tmp_path), *options)
    means = FLOW[[0, 2, 3], 1:19].reshape(3, 18, 2, HEIGHT // 2, 2, WIDTH // 2, 2).mean((4, 6))
    np.testing.assert_allclose(stored.field.numpy(), means, atol=1e-6)
    assert (stored.spacing, stored.time_step) == (2 * SPACING, TIME_STEP)


def test_levels_are_folders_with_equal_runs(tmp_path: Path) -> None:
    path, *options = one_array(tmp_path)
    np.save(tmp_path / "windy.npy", 2 * RUN_TIME_X_Y_COMPONENT)
    stored = imported(path, "windy.npy", *options, "--levels", "0,0.5")
    windy = read(stored.path.with_name("level_0.5.h5"))
    np.testing.assert_array_equal(windy.field, 2 * stored.field)


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, read_runs, original = image_order(tmp_path), [], forms.Run.read

    def interrupted(run: forms.Run, *which: Any) -> NDArray[Any]:
        read_runs.append(run.name)
        if len(read_runs) == 3:
            raise KeyboardInterrupt
        return original(run, *which)

    monkeypatch.setattr(converting, "UNSURE_BYTES", 0)
    monkeypatch.setattr(forms.Run, "read", interrupted)
    assert call(["symbench", "data", "import", *arguments, "--as", "flows", *TERMS]).returncode == 130
    assert not Path("flows.py").exists()
    (partial,) = Path("runs/data/flows/imported").iterdir()
    stored = imported(*arguments)
    assert read_runs == [f"run_{run}.npy" for run in (0, 1, 3, 3, 2)]
    np.testing.assert_array_equal(stored.field, FLOW[[0, 1, 3, 2]])
    assert [path.name for path in partial.parent.iterdir()] == ["level_0.h5"]
    Path("flows.py").write_text(Path("flows.py").read_text().replace("'C4'", "'translation'"))
    imported(*arguments)
    assert len(read_runs) == 5, "an import of unchanged files reads nothing"
    assert "'translation'" in Path("flows.py").read_text(), "the plug-in of the same import keeps its changes"
    assert (
        "is of another import"
        in call(["symbench", "data", "import", *arguments, "--as", "flows", *TERMS, "--walls"]).stderr
    )


def test_a_plugin_whose_runs_are_not_those_of_the_files_is_refused(tmp_path: Path) -> None:
    arguments = well(tmp_path)
    imported(*arguments)
    text = Path("flows.py").read_text()
    training = next(line for line in text.splitlines() if "training_runs" in line)
    Path("flows.py").write_text(text.replace(training, "    training_runs = range(1)"))
    done = call(["symbench", "data", "import", *arguments, "--as", "flows", *TERMS])
    assert (done.returncode, "other runs than the data have now; delete it" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("place", [0, 1])
def test_a_level_in_another_order_is_noticed_among_others(tmp_path: Path, place: int) -> None:
    path, *options = one_array(tmp_path)
    np.save(tmp_path / "swapped.npy", np.flip(RUN_TIME_X_Y_COMPONENT, -1))
    paths = [path]
    paths.insert(place, "swapped.npy")
    imported(*paths, *options)
    assert call(["symbench", "check-dataset", "flows.py"]).returncode == 1


def test_another_order_is_noticed(tmp_path: Path) -> None:
    np.save(tmp_path / "swapped.npy", RUN_TIME_X_Y_COMPONENT[..., ::-1])
    imported("swapped.npy", *PLAIN, "ntxyc")
    done = call(["symbench", "check-dataset", "flows.py"])
    assert (done.returncode, "import it again" in " ".join(done.stdout.split())) == (1, True)
    Path("gas.py").write_text(Path("flows.py").read_text() + "    compressible = True\n")
    assert call(["symbench", "check-dataset", "gas.py"]).returncode == 0
