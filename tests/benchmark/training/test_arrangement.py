"""The published layout: networks see transposed arrays, and metrics the flow."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import model_support
import pytest
import torch
from support import records, store_in, symbench
from torch import Tensor

from benchmark.cell import DatasetChoice, Protocol
from benchmark.data.dataset import ONE_VELOCITY
from benchmark.groups import rotate
from benchmark.models.e2cnn import E2CNN
from benchmark.models.task import Task
from benchmark.suite import loading as suites
from benchmark.training.arrangement import Physical, in_layout
from results.board.leaderboard import aggregate

DOCS = Path(__file__).parents[3] / "docs"
PUBLISHED = DatasetChoice(name="smoke_rotation", level=0, preset="small", layout="published")
SUITE = """\
name: both
protocol: {name: disjoint, input_frames: 1, train_steps: 2, test_steps: 4}
datasets:
  - smoke_rotation_levels: {level: 0, preset: tiny, layout: [physical, published]}
models: [persistence, {e2cnn: {hidden: 2, layers: 2}}]
train: {epochs: 1, batch_size: 8, learning_rate: 1e-3}
"""


def test_the_physical_layout_is_no_part_of_the_identity() -> None:
    physical = PUBLISHED.model_copy(update={"layout": "physical"})
    assert "layout" not in physical.model_dump()
    assert PUBLISHED.model_dump()["layout"] == "published"
    assert DatasetChoice.model_validate_json(PUBLISHED.model_dump_json()) == PUBLISHED
    assert (physical.place, PUBLISHED.place) == ("centered", "centered, published layout")


def test_a_task_has_the_shape_that_the_model_sees() -> None:
    task = Task.of(PUBLISHED, Protocol(), {"shape": (2, 62, 23), "periodic": False, "components": ONE_VELOCITY})
    assert (task.height, task.width) == (23, 62)
    assert in_layout(torch.zeros(3, 2, 62, 23), "published").shape == (3, 2, 23, 62)


def error(f: object, x: Tensor, turns: int, places: int) -> float:
    """Relative equivariance error under vectors that turn by `turns`, and places by `places`."""

    def act(field: Tensor) -> Tensor:
        vectors = rotate(field, turns, "centered")
        return torch.rot90(vectors, places - turns, (-2, -1))

    return float((f(act(x)) - act(f(x))).abs().mean() / f(x).abs().mean())  # type: ignore[operator]


def test_e2cnn_keeps_minus_the_turn_of_the_flow_in_the_published_layout() -> None:
    task = Task("made_up", 1, 12, 12)
    model = model_support.build(E2CNN, task, hidden=3, layers=3)
    model_support.randomise(model)
    x = torch.randn(2, 1, 2, 12, 12)
    with torch.no_grad():
        for f, kept, broken in ((model, 1, -1), (Physical(model), -1, 1)):
            assert error(f.next_frame, x, 1, kept) < 1e-5
            assert error(f.next_frame, x, 1, broken) > 0.1
            assert error(f.next_frame, x, 2, 2) < 1e-5


def test_both_layouts_are_trained_and_are_contests_of_their_own(tmp_path: Path) -> None:
    store, path = store_in(tmp_path), tmp_path / "both.yaml"
    path.write_text(SUITE)
    run = symbench("run", path, store=store)
    assert run.returncode == 0, run.stderr
    by_layout = {
        (record.cell.model.name, record.cell.dataset.layout): record.outcome for record in records(path, store)
    }
    same = {"rmse_future", "rmse_domain", "spectrum_error_future", "divergence_future", "divergence_truth_future"}
    for name in same:
        first, second = (by_layout["persistence", layout][name] for layout in ("physical", "published"))
        assert first == pytest.approx(second, rel=1e-5, abs=1e-12)
    change = "model_equivariance_error_over_change"
    assert by_layout["e2cnn", "physical"][change] < 1e-4 < 0.01 < by_layout["e2cnn", "published"][change]
    cells = suites.load(str(path)).cells
    rows = aggregate(cells, store.read(cells)[0])
    assert len({row.contest for row in rows}) == 2
    assert [row.remark for row in rows if row.model == "persistence"] == ["", ""], "it has nothing to learn"
    board = symbench("leaderboard", path, store=store)
    assert "centered, published layout" in board.stdout
    assert "opposite handedness" in " ".join(board.stdout.split())


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_the_check_in_the_docs_prints_what_the_docs_say() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "handedness.md").read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 11
    assert set(re.findall(r"^(?:from|import) (\w+)", code, flags=re.MULTILINE)) == {"torch", "e2cnn"}
    printed = io.StringIO()
    with torch.random.fork_rng(), redirect_stdout(printed):
        torch.manual_seed(0)
        exec(code, {})
    of_the_flow, other = map(float, printed.getvalue().split())
    assert other < 1e-5 < 0.3 < of_the_flow
