"""A budget of parameters decides the width, and a cell holds what was decided."""

from collections.abc import Callable

import pytest
import torch

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol
from benchmark.errors import UserError
from benchmark.evaluation.costs import built, parameters
from benchmark.models import model_registry
from benchmark.models.e2cnn import E2CNN
from benchmark.suite import budget, facts
from benchmark.suite.suite import Suite
from benchmark.training.experiment import task_of

PAPER = DatasetChoice(name="smoke_rotation", level="paper", preset="paper", grid="staggered")
SUITE = """\
name: sized
protocol: {input_frames: 2, train_steps: 4, test_steps: 6}
datasets:
  - smoke_rotation_levels: {level: [0, 3], preset: small}
models:
  - persistence
  - convnet
  - e2cnn: {layers: 4}
budget: 300k
"""

Load = Callable[[str], Suite]


def default(name: str) -> ModelChoice:
    baseline = model_registry.model(name)
    return ModelChoice(name=name, config=baseline.Config().model_dump(mode="json"), version=baseline.version)


def count(cell: Cell) -> int:
    return parameters(built(*model_registry.configured(cell.model), task_of(cell.dataset, cell.protocol)))


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *(("5.6M", 5_600_000), ("850k", 850_000), ("850 K", 850_000), ("0.001G", 1_000_000), ("1G", 10**9)),
        *(("5_600_000", 5_600_000), (5_600_000, 5_600_000), (2e6, 2_000_000), (None, None), ("none", None)),
    ],
)
def test_a_budget_is_read_as_people_write_it(written: object, number: int | None) -> None:
    assert budget.parse(written) == number


@pytest.mark.parametrize("written", ["5.6m", "M", "", "-3k", 0, "0.5", True, 1.5, "1.1G", "ten", [1], float("inf")])
def test_what_is_no_budget_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"must be a number of parameters up to 1G, such as 5\.6M"):
        budget.parse(written)


@pytest.mark.parametrize(
    "size",
    [
        lambda w: 9 * w * w + 50 * w + 3,
        lambda w: 90_112 * w + 8_192,
        lambda w: 5 * w**3,
        lambda w: 1000 + 7 * (-(-w // 4)) ** 2 + w,  # counts that go up in steps
        lambda w: 40_000 + w // 100,
    ],
)
@pytest.mark.parametrize("limit", [800, 4_000, 41_000, 5_600_000])
def test_the_budget_lies_between_neighbouring_widths(size: Callable[[int], int], limit: int) -> None:
    built_sizes = []

    def counted(width: int) -> int:
        built_sizes.append(size(width))
        return built_sizes[-1]

    bracketing = budget.bracket(counted, limit)
    if size(1) > limit:
        assert bracketing == [(1, size(1))]
    elif size(budget.WIDEST) <= limit:
        assert bracketing == [(budget.WIDEST, size(budget.WIDEST))]
    else:
        first_beyond = next(width for width in range(1, budget.WIDEST + 1) if size(width) > limit)
        assert bracketing == [(width, size(width)) for width in (first_beyond - 1, first_beyond)]
    assert len(built_sizes) <= 50
    assert max(built_sizes) <= max(8 * limit, size(1)), "nothing much larger than the budget is built"


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("relaxed_steerable_rotation", 103, 5_581_158),
        ("e2cnn", 278, 5_602_256),
        ("relaxed_group_rotation", 130, 5_630_620),
    ],
)
def test_the_widths_of_the_published_comparison_are_found(name: str, width: int, size: int) -> None:
    state = torch.random.get_rng_state()
    choice = budget.sized(default(name), 5_600_000, PAPER, Protocol())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert choice.config == {**default(name).config, "hidden": width}
    assert parameters(built(*model_registry.configured(choice), task_of(PAPER, Protocol()))) == size


def test_every_cell_holds_its_width_and_is_the_cell_that_writes_it(load: Load) -> None:
    cells = load(SUITE).cells
    assert [cell.id for cell in load(SUITE).cells] == [cell.id for cell in cells]
    widths = {cell.model.name: cell.model.config["hidden"] for cell in cells if cell.model.name != "persistence"}
    assert all(count(cell) == pytest.approx(300_000, rel=0.02) for cell in cells if cell.model.name in widths)
    written = SUITE.replace("- convnet", f"- convnet: {{hidden: {widths['convnet']}}}")
    written = written.replace("layers: 4", f"layers: 4, hidden: {widths['e2cnn']}").replace("budget: 300k\n", "")
    assert [cell.id for cell in load(written).cells] == [cell.id for cell in cells]


def test_a_model_has_a_budget_of_its_own_or_none(load: Load) -> None:
    text = SUITE.replace("- convnet", "- convnet: {budget: 700k}").replace("layers: 4", "hidden: 3, budget: null")
    cells = {cell.model.name: cell for cell in load(text).cells}
    assert count(cells["convnet"]) == pytest.approx(700_000, rel=0.02)
    assert cells["e2cnn"].model.config["hidden"] == 3


def test_a_list_of_budgets_is_an_axis(load: Load) -> None:
    cells = load(SUITE.replace("300k", "[300k, 600k]").replace("layers: 4", "layers: [4, 5]")).cells
    assert len(cells) == 2 * (1 + 2 + 2 * 2)
    sizes = {cell.model.config["hidden"]: count(cell) for cell in cells if cell.model.name == "convnet"}
    assert sorted(sizes.values()) == [pytest.approx(300_000, rel=0.02), pytest.approx(600_000, rel=0.02)]


def test_the_width_is_solved_for_each_task(load: Load) -> None:
    text = SUITE.replace("300k", "500k").replace("convnet", "mlp").replace("  - e2cnn: {layers: 4}\n", "")
    text = text.replace("level: [0, 3], preset: small", "level: 0, preset: small")
    both = load(text.replace("input_frames: 2,", "input_frames: [1, 2],")).only("model=mlp").cells
    assert len({cell.model.config["hidden"] for cell in both}) == 2
    assert all(count(cell) == pytest.approx(500_000, rel=0.02) for cell in both)


def test_a_wrapper_is_as_large_as_its_network(load: Load) -> None:
    text = SUITE.replace(
        "- e2cnn: {layers: 4}", "- frame_averaging: {network: [convnet: {layers: 4}, convnet: {layers: 6}]}"
    )
    cells = load(text).only("model=frame_averaging").only("level=0").cells
    assert [cell.model.config["network"]["config"]["layers"] for cell in cells] == [4, 6]
    assert all(count(cell) == pytest.approx(300_000, rel=0.02) for cell in cells)


def test_a_model_that_cannot_run_keeps_its_width(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "answer", lambda file, question, compute: compute())
    monkeypatch.setattr(E2CNN, "supports", classmethod(lambda cls, task: "no"))
    (cell,) = load(SUITE).only("model=e2cnn").only("level=0").cells
    assert cell.model.config["hidden"] == E2CNN.Config().hidden


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("300k", "20q", 9, "budget: must be a number of parameters"),
        ("300k", "[]", 9, "budget: an empty list"),
        ("300k", "[300k, 300k]", 9, "budget: '300k' stands there twice"),
        ("layers: 4", "budget: 1.1.1M", 8, "models.2.e2cnn.budget: must be a number of parameters"),
        ("layers: 4", "hidden: 4", 8, "models.2.e2cnn.hidden: the budget decides 'hidden'; leave it out, or say"),
        (
            "- convnet",
            "- frame_averaging: {network: {convnet: {hidden: 3}}}",
            7,
            "network.convnet.hidden: the budget decides",
        ),
        ("- convnet", "- frame_averaging: {network: {convnet: {budget: 9k}}}", 7, "unknown key 'budget'"),
        ("- persistence", "- persistence: {budget: 1k}", 6, "persistence has nothing to train, and so no size"),
        (
            "- convnet",
            "- convnet: {budget: 600}",
            7,
            "models.1.convnet.budget: no width of convnet has within 2 % of 600 ",
        ),
        ("- convnet", "- clcnn", 7, "the nearest are "),
    ],
)
def test_mistakes_are_named_with_line_and_key(load: Load, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(SUITE.replace(old, new, 1))
    assert len(str(caught.value).splitlines()) == 1
    assert f"tiny.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_the_nearest_widths_are_told(load: Load) -> None:
    with pytest.raises(UserError, match=r"the nearest are 419 at width 3 and 666 at width 4; .*`budget: null`"):
        load(SUITE.replace("- convnet", "- convnet: {budget: 600}"))
