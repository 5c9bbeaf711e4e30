"""`import symbench`: its names, the cost of importing it, what its functions return, the examples of docs/python.md."""

import ast
import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import store_in, suite_in
from support import symbench as command

import symbench
from results.board.published_board import read
from results.report.board_check import seedless
from results.report.publish import PUBLISHED_FOLDER

ROOT = Path(symbench.__file__).parent
NAMES = [
    *(
        "Baseline",
        "Cell",
        "Choice",
        "Dataset",
        "FramesAsChannels",
        "Frozen",
        "ImportedDataset",
        "LogUniform",
        "Part",
        "ParticleBaseline",
        "ParticleTask",
        "PositiveInt",
        "Preset",
        "SearchSpace",
    ),
    *(
        "Simulation",
        "Suite",
        "SymbenchError",
        "Task",
        "UserError",
        "compare",
        "figure",
        "load_suite",
        "results",
        "train",
    ),
]
READ = """
import sys, symbench
imported = lambda *names: [name for name in names if name in sys.modules]
assert not imported("torch", "mlflow", "scipy.stats", "matplotlib", "pandas", "pydantic")
assert len(symbench.results("beta-plane"))
assert not imported("torch", "mlflow", "scipy.stats", "matplotlib")
"""


def test_the_public_names_are_these_and_each_can_be_imported() -> None:
    assert sorted(symbench.__all__) == NAMES
    assert all(getattr(symbench, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Baselin'"):
        symbench.__getattr__("Baselin")


def test_reading_a_board_imports_no_torch() -> None:
    subprocess.run([sys.executable, "-c", READ], check=True)


@pytest.mark.parametrize("board", sorted(path.parent.name for path in PUBLISHED_FOLDER.glob("*/board.json")))
def test_a_published_board_is_a_frame_and_a_figure(board: str) -> None:
    if problem := seedless(read(PUBLISHED_FOLDER / board / "board.json")):
        with pytest.raises(symbench.UserError, match=problem):
            symbench.results(board)
        return
    frame = symbench.results(board)
    assert {"level", "model", "seed", "rmse_future", "train.epochs", "protocol.input_frames"} <= set(frame.columns)
    unit = "data units" if set(frame["dataset"]) == {"trapped_ions"} else "field units"
    assert frame.attrs["units"]["rmse_future"] == unit
    assert not frame.duplicated(["dataset", "preset", "grid", "level", "label", "budget", "seed"]).any()
    (axes, *_) = symbench.figure(board).axes
    assert unit in axes.get_xlabel()
    assert unit in axes.get_ylabel()


def test_a_cell_is_trained_and_read_back_as_a_frame_and_compared(tmp_path: Path) -> None:
    store, suite = (
        store_in(tmp_path / "store"),
        suite_in(tmp_path, "[convnet: {hidden: [2, 3]}]", seeds="[0, 1]", epochs=1),
    )
    cells = symbench.load_suite(str(suite)).cells
    metrics = symbench.train(cells[0], store.root)
    frame = symbench.results(suite, store.root).sort_values(["model.hidden", "seed"], ignore_index=True)
    assert list(frame["state"]) == ["done", "absent", "absent", "absent"]
    assert frame["rmse_future"][0] == metrics["rmse_future"]
    assert frame["peak_memory_bytes"][0] == metrics["peak_memory_bytes"]
    assert frame.attrs["units"]["peak_memory_bytes"] == "bytes"
    assert frame["rmse_future"].isna().sum() == 3
    assert list(frame["model.hidden"]) == [2, 2, 3, 3]
    assert symbench.train(cells[0], store.root) == metrics, "a finished cell is not trained again"
    assert command("run", suite, store=store).returncode == 0
    compared = symbench.compare("convnet hidden=2", "convnet hidden=3", suite, store.root)
    means = symbench.results(suite, store.root).groupby("model.hidden")["rmse_future"].mean()
    assert list(compared["first_mean"]) == [pytest.approx(means[2])]
    assert list(compared["second_mean"]) == [pytest.approx(means[3])]
    assert compared["low"][0] < compared["difference"][0] < compared["high"][0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symbench.results("beta-plan"), "did you mean 'beta-plane'"),
        (lambda: symbench.results("quickstar", store="runs"), "did you mean 'quickstart'"),
        (lambda: symbench.figure("beta-plane", metric="rmse_futur"), "did you mean 'rmse_future'"),
        (lambda: symbench.compare("convnet", "e2cnn", "quickstart", "nowhere"), "no results of suite 'quickstart'"),
    ],
)
def test_a_wrong_name_is_one_clear_error(call, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(symbench.UserError, match=message):
        call()


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures, tried = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert (failures, tried > 5) == (0, True)


def test_the_notebook_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, and the value of its last line is the text that the notebook holds."""
    notebook = json.loads((ROOT / "docs" / "from-suite-to-figure.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        *lines, last = ast.parse("".join(cell["source"])).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(lines, []), "notebook", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
        assert repr(value) == "".join(cell["outputs"][0]["data"]["text/plain"])
