"""Figures: places, colours, crossings, Pareto front, relaxation weights."""

import dataclasses
import itertools
import re
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import torch
from fabricated_board import report_of, rows_of

from benchmark.evaluation.relaxation import Relaxation, relaxations
from benchmark.models import model_registry
from benchmark.models.baseline import Task
from benchmark.models.layers.relaxation import RelaxedLayer
from results.board import leaderboard
from results.board.quantities import Statistic
from results.figures import figures, plot, rollouts, views_flow, views_symmetry, views_weights
from results.statistics.crossing import crossing

DOT = plot.Style("#000000", "o")
HOSTILE = "<script>alert(1)</script>\"'\n & {{ 7 * 7 }} $x$"


SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
DEUTERANOPIA = np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])
"""Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB."""


def linear(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB."""
    f = np.cbrt(SRGB_TO_XYZ @ rgb.clip(0, 1) / SRGB_TO_XYZ.sum(axis=1))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_families_are_readable_on_light_and_dark():
    dark, *luminances = (
        (SRGB_TO_XYZ @ linear(color))[1] for color in ("#14171b", *(style.color for style in figures.FAMILIES.values()))
    )
    for luminance in luminances:
        assert 1.05 / (luminance + 0.05) >= 3
        assert (luminance + 0.05) / (dark + 0.05) >= 3


@pytest.mark.parametrize("seen", [np.eye(3), DEUTERANOPIA], ids=["normal", "deuteranopia"])
def test_families_differ_in_colour_for_every_reader(seen):
    for one, other in itertools.combinations(figures.FAMILIES.values(), 2):
        assert np.linalg.norm(lab(seen @ linear(one.color)) - lab(seen @ linear(other.color))) > 20, (one, other)


def test_families_differ_in_marker_and_line():
    styles = figures.FAMILIES.values()
    assert len({style.marker for style in styles}) == len({style.dash for style in styles}) == len(styles)
    assert figures.DASHED.dash not in {style.dash for style in styles}


def test_a_series_looks_the_same_in_every_figure(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, {})
    families = {"convnet": "strict", "e2cnn": "strict"}
    rows = [dataclasses.replace(row, family=families.get(row.model, row.family)) for row in rows]
    look = figures.styles(rows)
    assert look == figures.styles(rows[::-1])
    assert look["e2cnn"].color == look["convnet"].color == figures.FAMILIES["strict"].color
    assert look["e2cnn"] != look["convnet"]


def test_round_off_does_not_stretch_the_axis(full_board):
    """The fabricated strict model has 6e-7, the others 1e-3 or more of the field."""
    rows = rows_of(full_board)
    made = views_symmetry.symmetry_kept(rows, "rmse_future", figures.styles(rows))
    assert "≤0.01<" in made.svg
    assert "drawn there" in made.caption
    relaxed = [row for row in rows if row.family != "strict" and row.level]
    made = views_symmetry.symmetry_kept(relaxed, "rmse_future", figures.styles(rows))
    assert "≤" not in made.svg


def test_figures_are_over_the_measured_error_and_never_the_knob(full_board):
    rows = rows_of(full_board)
    made = views_symmetry.error_of_models(rows, "rmse_future", figures.styles(rows))
    hints = re.findall(r"translate\(([\d.]+) [\d.]+\)\"><title>convnet, level (\d)", made.svg)
    places = {int(level): float(x) for x, level in hints}
    assert set(places) == {0, 3, 9}
    assert (places[9] - places[0]) / (places[3] - places[0]) == pytest.approx(3, rel=1e-2), "errors 0, .15, .45"


def test_the_strict_floor_is_a_dashed_line(full_board):
    """Floor 0.09 at level 3 and 0.27 at level 9; in units of skill, 1 - floor / RMSE of the best trivial forecast."""
    rows = rows_of(full_board)
    look = figures.styles(rows)
    assert "strict floor" in views_symmetry.error_of_models(rows, "rmse_future", look).svg
    assert "strict floor" in views_symmetry.where_they_cross(rows, "rmse_domain").caption
    assert "strict floor" not in views_symmetry.error_of_models(rows, "vrmse_future", look).svg
    (line,) = views_symmetry._floor(rows, "rmse_future")
    assert (line.x, line.y) == (pytest.approx([0, 0.15, 0.45]), pytest.approx([0, 0.09, 0.27]))
    without = [
        dataclasses.replace(row, metrics={**row.metrics, "rmse_future": Statistic(0.3, None, 1)}) for row in rows
    ]
    skilled = [
        dataclasses.replace(row, metrics={**row.metrics, "skill_future": Statistic(0.25, None, 1)}) for row in without
    ]
    (line,) = views_symmetry._floor(skilled, "skill_future")  # the trivial forecast has 0.4
    assert line.y == pytest.approx([1, 1 - 0.09 / 0.4, 1 - 0.27 / 0.4])


def test_where_strict_and_relaxed_cross(new_board, new_cell):
    """Strict 0.1 + x, relaxed 0.2 + x / 2 over the data error x: they cross at 0.2."""
    cells = [
        new_cell(m, level, s) for m in ("e2cnn", "relaxed_steerable_rotation") for level in (0, 3, 9) for s in (0, 1, 2)
    ]
    board = new_board(cells)
    for cell in cells:
        x = 0.05 * cell.dataset.level
        error = 0.1 + x if cell.model.name == "e2cnn" else 0.2 + x / 2
        board.finish(cell, rmse_future=error + 0.001 * cell.seed)
    rows = rows_of(board)
    made = views_symmetry.where_they_cross(rows, "rmse_future")
    assert "data equivariance error of 0.2000, 95 % interval 0.19" in made.caption
    assert made.sheet.lines[0][:2] == ("e2cnn", "relaxed_steerable_rotation")
    one_level = [row for row in rows if row.level == 0]
    assert views_symmetry.where_they_cross(one_level, "rmse_future").svg is None


def test_lines_that_begin_together_or_touch_do_not_cross():
    ones = np.ones((3, 2))
    assert crossing([0.0, 1.0, 2.0], ones, ones + np.array([[0], [1], [2]])) is None
    assert crossing([0.0, 1.0, 2.0], ones, ones + np.array([[1], [0], [1]])) is None
    assert crossing([0.0, 1.0, 2.0], ones, ones + np.array([[1], [0], [-1]])).at.value == 1.0


def test_a_row_that_lacks_a_seed_does_not_stand_for_its_family_nor_on_the_front(new_board, new_cell):
    cells = [new_cell("convnet", seed=seed, hidden=hidden) for hidden in (32, 64, 96) for seed in (0, 1)]
    board = new_board(cells)
    for cell in cells:
        width = cell.model.config["hidden"]
        if width == 32 and cell.seed:
            board.diverge(cell)
        else:
            error = 0.01 * width + 0.001 * cell.seed
            board.finish(cell, rmse_future=1 - error, rmse_validation=error, parameters=width)
    rows = rows_of(board)
    (member,) = views_symmetry.envelopes(rows, "rmse_future")["cnn"]
    assert member.config["hidden"] == 64
    made = views_flow.pareto(rows, "rmse_future", figures.styles(rows), "level 0")[0].svg
    dashed = re.search(r'<path d="([^"]*)" fill="none" stroke="currentColor" stroke-width="1.8" stroke-dasharray', made)
    assert dashed[1].count(",") == 2, "the front holds the two that are complete"


def test_calibration_follows_the_slope(full_board):
    rows = rows_of(full_board)
    sheet = views_symmetry.symmetry_kept(rows, "rmse_future", figures.styles(rows)).sheet
    slopes = {line[0]: line[1] for line in sheet.lines}
    assert slopes["convnet"].startswith("0.9000"), "the fabricated model has 0.9 of the data's"
    assert float(slopes["e2cnn"].split()[0]) == pytest.approx(0, abs=1e-12)


def test_the_pareto_front_holds_those_that_nobody_beats(full_board):
    cells = full_board.suite.cells[:6:2]
    rows = leaderboard.aggregate(cells, full_board.store.read(cells)[0])
    put = {"convnet": (1, 0.3), "e2cnn": (2, 0.4), "relaxed_steerable_rotation": (3, 0.1)}
    for row in rows:
        cost, error = put[row.model]
        row.metrics["parameters"] = dataclasses.replace(row.metrics["parameters"], mean=cost)
        row.metrics["rmse_future"] = dataclasses.replace(row.metrics["rmse_future"], mean=error)
    front = views_flow.pareto_front(rows, "parameters", "rmse_future")
    assert [row.model for row in front] == ["convnet", "relaxed_steerable_rotation"]


class TestPlot:
    def test_points_lie_where_the_axes_say(self):
        made = plot.chart([plot.Series("a", [0, 1, 2], [0, 10, 20], DOT)], plot.Axis("x"), plot.Axis("y"))
        places = [(float(x), float(y)) for x, y in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", made)]
        (x0, y0), (x1, y1), (x2, y2) = places
        assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
        assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
        assert x0 < x2
        assert y0 > y2, "up is more"

    def test_a_decade_is_as_wide_as_the_next(self):
        made = plot.chart([plot.Series("", [1, 10, 100], [1, 1, 1], DOT)], plot.Axis("x", log=True), plot.Axis("y"))
        x = [float(place) for place in re.findall(r"translate\(([\d.]+) ", made)]
        assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.15)

    def test_what_cannot_be_drawn_is_left_out(self):
        nothing = plot.Series("a", [0.0, 1.0], [1.0, float("nan")], DOT)
        assert plot.chart([nothing], plot.Axis("x", log=True), plot.Axis("y")) is None

    def test_names_are_escaped_and_xml(self):
        series = plot.Series(HOSTILE + "\x07", [1], [1], DOT, hints=[HOSTILE + "\x07"])
        made = plot.chart([series], plot.Axis("x"), plot.Axis("y"))
        title = ElementTree.fromstring(plot.standalone(made, HOSTILE)).find("{*}text")
        assert title.text.startswith("<script>alert(1)</script>")
        assert "<script" not in made

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (1e-9, 3e-9), (5, 5), (-1, 0), (1e6, 2e6)])
    def test_every_span_has_ticks(self, low, high):
        made = plot.chart([plot.Series("a", [low, high], [low, high], DOT)], plot.Axis("x"), plot.Axis("y"))
        assert made.count('text-anchor="end"') >= 2


class TestWeights:
    def test_constant_weights_are_strict(self):
        (layer,) = relaxations({"layers.0.banks.deviation": torch.full((2, 8, 8), 0.7)}, (8, 8))
        assert layer.layer == "layers.0"
        assert layer.size == pytest.approx(0.0, abs=1e-6)

    def test_a_step_in_the_box_is_seen_where_it_is(self):
        deviation = torch.zeros(1, 8, 8)
        deviation[:, 4:] = 2.0
        (layer,) = relaxations({"a.banks.deviation": deviation}, (8, 8))
        assert layer.map.shape == (8, 8)
        assert abs(layer.map) == pytest.approx(1 / 5**0.5), (
            "each half is 1 from the mean of 2; the root mean square is 5^.5"
        )
        assert (layer.map[4:] == -layer.map[:4]).all(), "halves that differ have opposite signs"
        assert layer.explained == pytest.approx(1)

    def test_layers_are_known_by_their_names(self):
        expanded = "steerable.parametrizations.weight"
        state = {
            f"{expanded}.original": torch.ones(4, 5, 2),
            f"{expanded}.0.kernels": torch.ones(3, 3, 2, 4, 4),
            f"{expanded}.0.relaxation.deviation": torch.ones(4, 5, 1),
            f"{expanded}.0.relaxation.places": torch.tensor(
                [2 * 5 + 1]
            ),  # the second basis kernel at the position (1, 2)
            "strict.parametrizations.weight.original": torch.randn(4, 5, 6),
            "local.weight": torch.randn(4, 18),
            "local.deviation": torch.randn(8, 8, 4, 18),
            "plain.weight": torch.randn(8, 8, 3, 3),
            "turns.parametrizations.weight.0.deviation": torch.randn(2, 4),
            "both.banks.deviation": torch.randn(2, 4, 8, 8),
            "gm.a": torch.zeros(5, 8, 8),
            "bias": torch.randn(8),
        }
        maps = {one.layer: one.map for one in relaxations(state, (8, 8))}
        shapes = {layer: places.shape for layer, places in maps.items()}
        assert shapes == {"steerable": (3, 3), "local": (8, 8), "turns": (1, 4), "both": (8, 8), "gm": (8, 8)}
        assert divmod(int(abs(maps["steerable"]).argmax()), 3) == (1, 2)

    def test_every_relaxed_layer_of_the_registry_is_found(self):
        """A relaxed baseline whose weights no picture shows is named here."""
        task = Task("smoke_rotation_levels", 1, 8, 8)
        for name in model_registry.model_names():
            model_class = model_registry.model(name)
            if model_class.family != "relaxed" or model_class.cannot_run(model_class.Config(), task) is not None:
                continue
            widths = {model_class.width_field: 2} if model_class.width_field in model_class.Config.model_fields else {}
            model = model_class(model_class.Config(**widths), task)
            layers = [module for module in model.modules() if isinstance(module, RelaxedLayer)]
            assert len(list(relaxations(model.state_dict(), (8, 8)))) >= min(1, len(layers)), name

    def test_a_large_board_does_not_have_all_its_checkpoints_read(self, full_board, monkeypatch):
        records, _ = full_board.store.read(full_board.suite.cells)
        row = next(row for row in leaderboard.aggregate(full_board.suite.cells, records) if row.family == "relaxed")
        read = []
        monkeypatch.setattr(views_weights, "_read", lambda record: read.append(record) or [])
        assert views_weights.pictures([row] * 50, [], records, "level 0").svg is None
        assert len(read) == views_weights.MOST_READ

    def test_layers_are_drawn_without_a_checkpoint(self, new_board, new_cell):
        cell = new_cell("relaxed_steerable_rotation")
        board = new_board([cell])
        board.finish(cell)
        layers = [Relaxation("first", np.eye(4), 0.1, 1.0), Relaxation("not finite", np.full((1, 4), np.nan), 0.1, 1.0)]
        with board.store.recorder(cell) as recorder:
            recorder.rollouts([], "centered", layers)
        records, _ = board.store.read([cell])
        (layer,) = views_weights._read(records[cell.id])
        assert (layer.layer, layer.map.tolist(), layer.size) == ("first", np.eye(4).tolist(), 0.1)

    def test_a_broken_checkpoint_is_named_and_costs_the_picture_alone(self, new_board, new_cell):
        cell = new_cell("relaxed_steerable_rotation")
        board = new_board([cell])
        board.finish(cell)
        folder = board.store.cell_folder(cell.id)
        with h5py.File(folder / "predictions.h5", "a") as file:
            del file["relaxation_modes"]  # as earlier versions left it
        (folder / "checkpoint.pt").write_bytes(b"no checkpoint")
        html = report_of(board).html
        assert "no finished model here has relaxed weights" in html
        assert f"Cannot be read: cells/{cell.id})." in html


def test_x_is_to_the_right_and_y_up():
    field = np.zeros((4, 3), np.float32)
    field[3, 0] = 1.0  # the right-most x, the lowest y
    drawn = rollouts._indices(field, 1.0, 0)
    assert drawn.shape == (3, 4)
    assert drawn[2, 3] == rollouts.SHADES - 1
