"""Boards of particles: the level and the field that models have learned, and words that are those of particles."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated_board import Board, report_of, rows_of
from rich.console import Console

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training
from benchmark.data.physics.trapped_ions import AXIS
from benchmark.errors import UserError
from results.board.quantities import require_ranking
from results.board.row import Row
from results.board.table import to_table
from results.figures.figures import Plot, styles
from results.figures.sphere import ELEVATION, HALF, LONGEST, VIEW, Camera
from results.figures.views_discovery import learned_field, learned_level
from results.store.record import VECTORS
from results.tracking.notes import setting_note

NewBoard = Callable[[Sequence[Cell]], Board]


def ion_cell(model: str, level: float, seed: int) -> Cell:
    return Cell(
        dataset=DatasetChoice(name="trapped_ions", level=level, preset="small"),
        model=ModelChoice(name=model, config={}),
        protocol=Protocol(),
        train=Training(),
        seed=seed,
    )


@pytest.fixture
def ions(new_board: NewBoard) -> Board:
    """egnn has learned nothing, and relaxed_egnn the true level up to its seed and the true field."""
    board = new_board([ion_cell(m, level, n) for m in ("egnn", "relaxed_egnn") for level in (0, 0.5) for n in (0, 1)])
    for cell in board.suite.cells:
        relaxed = cell.model.name == "relaxed_egnn"
        level, seed = float(cell.dataset.level), cell.seed
        learned = {"learned_level": level + 0.01 * seed, "learned_angle": 2.0 + seed} if relaxed else {}
        fields = {"learned_field": [relaxed * level * part for part in AXIS], "true_field": list(AXIS)}
        errors = {"rmse_future": 0.1 + 0.01 * seed, "rmse_validation": 0.1, "data_equivariance_error": 0.8 * level}
        with board.recording(cell) as recorder:
            recorder.finish("done", {**errors, "learned_level": 0.0, **learned, **fields})
    return board


def with_field(rows: Sequence[Row], field: Sequence[float], level: float = 0.5) -> list[Row]:
    """Rows of relaxed_egnn at level 0.5 with another learned field, over the true one of `level`, as their level."""
    chosen = [row for row in rows if row.model == "relaxed_egnn" and row.level == 0.5]
    numbers = [part * abs(level) for part in field]
    return [replace(row, level=level, recorded=({**row.recorded[0], "learned_field": numbers},)) for row in chosen]


def field_plot(rows: Sequence[Row]) -> Plot:
    (plot,) = learned_field(rows, "rmse_future", styles(rows))
    return plot


def drawn(plot: Plot, name: str) -> list[dict[str, str]]:
    """Attributes of the paths of the only arrow of this name, the last of which is its tip."""
    assert plot.svg is not None
    root = ElementTree.fromstring(plot.svg)
    (group,) = (one for one in root.iter() if one.get("class") == "line" and one.get("data-name") == name)
    return [dict(path.attrib) for path in group]


def tip(plot: Plot, name: str) -> tuple[float, float]:
    place = re.match(r"translate\((\S+),(\S+)\)", drawn(plot, name)[-1]["transform"])
    assert place is not None
    return float(place[1]), float(place[2])


def test_the_learned_level_stands_beside_the_true_one(ions: Board) -> None:
    rows = rows_of(ions)
    (plot,) = learned_level(rows, "rmse_future", styles(rows))
    assert plot.sheet is not None
    assert plot.sheet.lines == (
        ("egnn", "0", "0 [0, 0]", "-"),
        ("egnn", "0.5", "0 [0, 0]", "-"),
        ("relaxed_egnn", "0", "0.005000 [0, 0.01000]", "2.500 [2.000, 3.000]"),
        ("relaxed_egnn", "0.5", "0.5050 [0.5000, 0.5100]", "2.500 [2.000, 3.000]"),
    )
    assert plot.svg is not None
    assert [plot.svg.count(f'class="line" data-name="{name}"') for name in ("egnn", "relaxed_egnn", "truth")] == [1] * 3


def test_it_is_in_the_report_and_among_the_figures_of_mlflow(ions: Board, full_board: Board) -> None:
    report = report_of(ions)
    assert "trapped-ions-small-learned-level" in [stem for stem, _ in report.svg_figures]
    assert "trapped-ions-small-learned-field" in [stem for stem, _ in report.svg_figures]
    assert "Does the model learn the breaking" in report.html
    assert "Which field has the model learned?" in report.html
    assert 'data-metric="learned_level"' in report.html
    assert "Does the model learn the breaking" not in report_of(full_board).html


def test_no_model_is_ranked_by_an_angle_that_it_may_not_have() -> None:
    with pytest.raises(UserError, match="at level 0 it says nothing"):
        require_ranking("learned_angle")


def test_nothing_is_said_of_grids_and_fields(ions: Board) -> None:
    rows = rows_of(ions)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(to_table(rows))
    texts = [capture.get(), report_of(ions).html, setting_note(rows[0])]
    for text in texts:
        for word in ("field units", "Field units", "centered", "spectra", "Divergence of", "relaxed layers", "uarter"):
            assert word not in text
    assert all("data error over the 24 turns of the cube" in text for text in texts[:2])


def test_a_field_equal_to_the_true_one_is_drawn_on_it_and_a_strict_model_is_a_point(ions: Board) -> None:
    plot = field_plot(rows_of(ions))
    (line, head), (true_line, true_head) = drawn(plot, "relaxed_egnn"), drawn(plot, "truth")
    assert [line["d"], head["d"], head["transform"]] == [true_line["d"], true_head["d"], true_head["transform"]]
    assert "stroke-dasharray" in true_line
    assert "stroke-dasharray" not in line
    assert math.hypot(*tip(plot, "truth")) == pytest.approx(HALF * math.sin(VIEW), abs=0.1)
    (point,) = drawn(plot, "egnn")
    assert point["transform"].startswith("translate(0,0)")
    assert plot.svg is not None
    assert (
        "<title>relaxed_egnn, level 0.5: 1.000 times as long as the true field, 0.0 degrees from it, 2 seeds</title>"
        in plot.svg
    )
    assert "<title>egnn, level 0.5: no field, 2 seeds</title>" in plot.svg
    assert plot.sheet is not None
    assert plot.sheet.lines == (
        ("truth", "0.5", "0.2400", "-0.1800", "0.4000"),
        ("egnn", "0.5", "0 [0, 0]", "0 [0, 0]", "0 [0, 0]"),
        ("relaxed_egnn", "0.5", "0.2400 [0.2400, 0.2400]", "-0.1800 [-0.1800, -0.1800]", "0.4000 [0.4000, 0.4000]"),
    )
    assert plot == field_plot(rows_of(ions))


@pytest.mark.parametrize("level", [0.5, -0.5])
def test_angles_and_lengths_of_arrows(ions: Board, level: float) -> None:
    """A field across the line of sight keeps its length; one of the other sign points the other way."""
    camera = Camera(math.copysign(1, level) * np.array(AXIS))
    across = field_plot(with_field(rows_of(ions), 0.8 * camera.right, level))
    assert tip(across, "relaxed_egnn") == pytest.approx((0.8 * HALF, 0), abs=0.1)
    beside = math.degrees(math.acos(float(camera.right @ np.array(AXIS)) * math.copysign(1, level)))
    assert across.svg is not None
    assert f"level {level}: 0.8000 times as long as the true field, {beside:.1f} degrees from it, 1 seed" in across.svg
    opposite = field_plot(with_field(rows_of(ions), [-math.copysign(0.9, level) * part for part in AXIS], level))
    assert tip(opposite, "relaxed_egnn") == pytest.approx([-0.9 * part for part in tip(opposite, "truth")], abs=0.1)
    assert opposite.svg is not None
    assert "0.9000 times as long as the true field, 180.0 degrees from it" in opposite.svg


def test_a_long_arrow_is_cut_and_the_caption_says_so(ions: Board) -> None:
    rows = rows_of(ions)
    long, longer = (field_plot(with_field(rows, [length * part for part in AXIS])) for length in (1.6, 100))
    assert drawn(long, "relaxed_egnn") == drawn(longer, "relaxed_egnn")
    assert math.hypot(*tip(long, "relaxed_egnn")) == pytest.approx(HALF, abs=0.1), "the sphere makes room"
    assert math.hypot(*tip(long, "truth")) == pytest.approx(HALF / LONGEST, abs=0.1)
    assert "cut there" in long.caption
    assert "cut there" not in field_plot(rows).caption
    assert longer.svg is not None
    assert "100.0 times as long as the true field" in longer.svg


@pytest.mark.parametrize("other", [{}, {"learned_field": [0, 1]}, {"true_field": [0, 0, 0]}, {"true_field": "z"}])
def test_records_without_the_vectors_have_no_such_figure(ions: Board, other: dict[str, object]) -> None:
    rows = []
    for row in rows_of(ions):
        scalars = [{name: one[name] for name in one if other or name not in VECTORS} for one in row.recorded]
        rows.append(replace(row, recorded=tuple(one | other for one in scalars)))
    assert learned_field(rows, "rmse_future", styles(rows)) == []
    assert len(learned_level(rows, "rmse_future", styles(rows))) == 1


def test_only_levels_with_a_field_have_a_sphere(ions: Board) -> None:
    rows = [row for row in rows_of(ions) if row.level == 0]
    assert learned_field(rows, "rmse_future", styles(rows)) == []


@pytest.mark.parametrize(
    ("subject", "degrees"),
    [
        (AXIS, 50),
        ((-2.0, 0.0, 0.0), 50),
        ((0.0, 0.0, 1.0), 90 - math.degrees(ELEVATION)),
        ((0.0, 0.0, -1.0), 90 + math.degrees(ELEVATION)),
    ],
)
def test_the_camera_keeps_right_angles_and_sees_great_circles(
    subject: tuple[float, float, float], degrees: float
) -> None:
    """Points of a great circle lie on the ellipse, those nearer than the centre on its front half."""
    camera = Camera(np.array(subject))
    assert camera.degrees == pytest.approx(degrees)
    axes = np.stack([camera.right, camera.up, camera.toward])
    assert axes @ axes.T == pytest.approx(np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1)
    assert camera.place(camera.right) == pytest.approx((1, 0))
    assert camera.place(camera.up) == pytest.approx((0, -1))
    assert camera.place(np.array([0.0, 0.0, 1.0])) == pytest.approx((0, -math.cos(ELEVATION)))
    assert camera.meridian @ np.array(subject) == pytest.approx(0)
    for normal in (np.array([0.0, 0.0, 1.0]), np.array([0.48, 0.64, -0.6]), camera.meridian):
        end, short, clockwise = camera.halves(normal)
        one = np.cross(normal, [0.6, 0.48, 0.64])
        one /= np.linalg.norm(one)
        for turn in np.linspace(0.1, 6.3, 20):
            point = math.cos(turn) * one + math.sin(turn) * np.cross(normal, one)
            x, y = camera.place(point)
            along, beside = end[0] * x + end[1] * y, end[0] * y - end[1] * x
            assert (short * along) ** 2 + beside**2 == pytest.approx(short**2)
            assert short < 1e-9 or (beside > 0) == (clockwise == bool(point @ camera.toward > 0))
