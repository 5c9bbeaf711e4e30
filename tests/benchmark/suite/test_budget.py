"""A budget of parameters or of FLOPs decides the width, and a cell holds what was decided."""

import io
from collections.abc import Callable

import pytest
import torch
from rich.console import Console

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol
from benchmark.errors import UserError
from benchmark.evaluation.costs import built, flops, parameters
from benchmark.models import model_registry
from benchmark.models.e2cnn import E2CNN
from benchmark.planning.plan import make_plan
from benchmark.suite import budget, facts
from benchmark.suite.budget import Flops
from benchmark.suite.suite import Suite
from benchmark.training.experiment import task_of
from results.board.leaderboard import aggregate
from results.board.table import to_table

SHORT = Protocol(input_frames=2, train_steps=4, test_steps=6)
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
        *(({"parameters": "5.6M"}, 5_600_000), ({"flops": "60M"}, Flops(flops=60_000_000))),
        ({"flops": "1.25T"}, Flops(flops=1_250_000_000_000)),
    ],
)
def test_a_budget_is_read_as_people_write_it(written: object, number: budget.Budget | None) -> None:
    assert budget.parse(written) == number


@pytest.mark.parametrize("written", ["5.6m", "M", "", "-3k", 0, "0.5", True, 1.5, "1.1G", "ten", [1], float("inf")])
def test_what_is_no_budget_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"must be a number of parameters up to 1G, such as 5\.6M"):
        budget.parse(written)


@pytest.mark.parametrize(
    ("solved", "text"),
    [
        *((5_600_000, "5.6M parameters"), (850, "850 parameters"), (10**9, "1G parameters")),
        *((Flops(flops=60_000_000), "60M FLOPs a step"), (Flops(flops=1_234_500), "1.2345M FLOPs a step")),
    ],
)
def test_a_budget_in_words(solved: budget.Budget, text: str) -> None:
    assert budget.described(solved) == text


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


@pytest.mark.parametrize(
    "name", ["convnet", "e2cnn", "relaxed_steerable_rotation", "relaxed_group_rotation", "fno", "rpp_rotation"]
)
def test_a_budget_of_flops_is_that_of_the_record(name: str) -> None:
    dataset = DatasetChoice(name="beta_plane", level=0, preset="small")
    choice = budget.sized(default(name), Flops(flops=600_000_000), dataset, SHORT)
    assert flops(built(*model_registry.configured(choice), task_of(dataset, SHORT))) == pytest.approx(6e8, rel=0.02)


def test_both_budgets_are_two_contests(load: Load) -> None:
    suite = load(SUITE.replace("300k", "[{parameters: 300k}, {flops: 618M}]"))
    for cell in suite.only("model=convnet,level=0").cells:
        (solved,) = suite.budgets[cell.id]
        if isinstance(solved, Flops):
            assert facts.work(cell.model, task_of(cell.dataset, cell.protocol))[0] == pytest.approx(6.18e8, rel=0.02)
        else:
            assert count(cell) == pytest.approx(300_000, rel=0.02)
    assert len(suite.only("model=convnet,level=0").cells) == 2
    rows = aggregate(suite.only("level=0").cells, {}, budgets=suite.budgets)
    contests: dict[str, list[str]] = {}
    for row in rows:
        contests.setdefault(row.budget, []).append(row.label)
    names = ["convnet", "e2cnn", "persistence"]
    assert contests == {"300k parameters": names, "618M FLOPs a step": names}, "a trivial forecast is in both"
    assert len({row.contest for row in rows}) == 2
    heading = Console(width=120, record=True, file=io.StringIO())
    heading.print(to_table(rows))
    assert "level 0, disjoint, 618M FLOPs a step" in heading.export_text()
    plan = make_plan(suite, [], {})
    assert {row.budget for row in plan.rows if row.model == "e2cnn"} == set(contests)


def test_two_budgets_that_give_one_width_share_the_cell(load: Load) -> None:
    suite = load(SUITE.replace("300k", "[300k, 300.1k]"))
    (cell,) = suite.only("model=convnet,level=0").cells
    assert suite.budgets[cell.id] == (300_000, 300_100)
    assert len(aggregate([cell], {}, budgets=suite.budgets)) == 2


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
        ("300k", "{flop: 60M}", 9, "budget: unknown key 'flop'; did you mean 'flops'?"),
        ("300k", "{flops: 60X}", 9, "budget: must be a number of FLOPs a step up to 10T, such as 60M"),
        ("300k", "{flops: 60M, parameters: 3k}", 9, "budget: must have one of parameters and flops, not 2 keys"),
        ("- convnet", "- convnet: {budget: {flops: 1M}}", 7, "within 2 % of 1,000,000 FLOPs a step on smoke"),
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
