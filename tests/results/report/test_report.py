"""The HTML report: escaping, links, figures, and its look in a browser."""

import dataclasses
import json
import re
import shlex
from html import escape, unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training
from benchmark.models import model_registry
from benchmark.models.baseline import Task
from benchmark.models.layers.relaxation import RelaxedLayer
from results.board import leaderboard, literature
from results.board.reproduce import Commands
from results.figures import figures, plot, rollouts, views_flow, views_symmetry, views_weights
from results.report import report
from results.report.report import Report
from results.statistics.crossing import crossing

HOSTILE = "<script>alert(1)</script>\"'\n & {{ 7 * 7 }} $x$"


def render(board, metric="rmse_future"):
    records, broken = board.store.read(board.suite.cells)
    return Report(board.store, board.suite, records, broken, metric).html


def figures_in(board):
    return Report(board.store, board.suite, *board.store.read(board.suite.cells)).svg_figures


def test_the_same_store_gives_the_same_bytes(full_board):
    assert render(full_board) == render(full_board)


def test_the_page_needs_nothing_from_outside(full_board):
    html = render(full_board)
    assert not re.findall(r"(?:src|href|srcset|action)\s*=\s*[\"'](?!data:|#|cells/[0-9a-f]{16}/\")", html)
    assert not re.findall(r"url\((?!#)|@import|fetch\(", html)
    assert "default-src 'none'" in html
    assert len(html) < 400_000


def test_every_name_is_escaped(full_board, new_board, new_cell):
    cell = new_cell("convnet", note=HOSTILE)
    other = new_cell("convnet", note=HOSTILE + "!")
    board = new_board([cell, other, new_cell(level=3)], HOSTILE)
    board.finish(cell)
    board.finish(other)
    board.refuse(new_cell(level=3), HOSTILE)
    folder = board.store.cell_folder(new_cell(level=3).id)
    (folder / "metrics.json").write_text('"<script>alert(2)</script>"')
    html = render(board)
    assert "alert(1)" in html
    assert html.count("<script") == 1
    assert not re.search(r"<script>alert", html)
    assert "{{ 7 * 7 }}" in html


def test_broken_missing_and_diverged_are_named(full_board):
    cell = full_board.suite.cells[0]
    (full_board.store.cell_folder(cell.id) / "status.json").write_text("{")
    html = render(full_board)
    assert "Broken records" in html
    assert f"cells/{cell.id}" in html
    assert "1 diverged, 1 absent" in html
    assert "n/a: needs a square grid" in html
    assert str(full_board.store.root) not in html


def test_a_store_without_results_gives_a_page(new_board, new_cell):
    html = render(new_board([new_cell()]))
    assert "<svg" not in html
    assert html.count("Not drawn: no finished record") >= 5
    assert "No record has its provenance yet" in html


def test_every_metric_can_lead(full_board):
    for metric in ("rmse_validation", "samples_per_second"):
        assert f'data-metric="{metric}"' in render(full_board, metric)


def test_the_command_reproduces_the_row_and_no_other(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, {})
    commands = Commands(full_board.suite)
    for row in rows:
        command = shlex.split(commands.of_row(row))
        assert command[:4] == ["symbench", "run", "levels.yaml", "--only"]
        assert {cell.id for cell in full_board.suite.only(command[4]).cells} == {seed.cell_id for seed in row.seeds}
        for seed in row.seeds:
            (cell,) = full_board.suite.only(shlex.split(commands.of_cell(seed.cell_id))[4]).cells
            assert cell.id == seed.cell_id


def test_the_command_meets_no_cell_that_is_not_on_the_board(full_board, new_cell, tmp_path, monkeypatch):
    """Neither one that nobody tuned, which `run --tuned` would refuse, nor one that `--only` left out."""
    suite = full_board.suite
    untuned = tuple(new_cell("mlp", level=level, seed=seed) for level in (0, 3) for seed in (0, 1))
    partly = dataclasses.replace(suite, asked=True, untuned=untuned)
    meets = dataclasses.replace(suite, cells=(*suite.cells, *untuned))
    chosen = suite.only("model=convnet")
    for shown, run in ((partly, meets), (chosen, suite)):
        for row in leaderboard.aggregate(shown.cells, {}):
            for line in Commands(shown).of_row(row).splitlines():
                command = shlex.split(line)
                selected = {cell.id for cell in run.only(command[4]).cells}
                assert selected <= {seed.cell_id for seed in row.seeds}, line
                assert command[5:] == (["--tuned"] if shown.asked else [])
    plugin = tmp_path / "my model.py"
    plugin.touch()
    monkeypatch.setattr(model_registry, "_plugins", {"my model": plugin})
    assert shlex.split(Commands(suite).of_cell("abc"))[-2:] == ["--plugin", str(plugin)]


def test_a_value_that_only_cannot_say_is_not_said(new_board, new_cell):
    cells = [new_cell(note=note) for note in ("a,b", " a", "a=b", "plain")]
    suite = new_board(cells).suite
    for row in leaderboard.aggregate(cells, {}):
        command = shlex.split(Commands(suite).of_row(row))
        assert [cell.id for cell in suite.only(command[4]).cells] == [row.seeds[0].cell_id]


def test_what_only_cannot_say_is_reproduced_by_id(new_board, new_cell):
    cells = [new_cell(epochs=1), new_cell(epochs=2)]
    rows = leaderboard.aggregate(cells, {})
    commands = [Commands(new_board(cells).suite).of_row(row) for row in rows]
    assert commands == [f"symbench run levels.yaml --only id={cell.id}" for cell in cells]


def test_the_rollout_picture_is_small(full_board):
    html = render(full_board)
    pictures = 1 + 2 * 2 + 2  # the truth, prediction and error of two, and their colour bars
    assert html.count("data:image/png;base64") >= pictures
    assert html.count("data:image/gif;base64") == 1
    assert max(len(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.S)) < 200_000


def test_series_are_readable_on_light_and_dark():
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark = luminance("#14171b")
    for color in (color for colors in figures.COLORS.values() for color in colors):
        assert 1.05 / (luminance(color) + 0.05) >= 3, color
        assert (luminance(color) + 0.05) / (dark + 0.05) >= 3, color


def test_a_series_looks_the_same_in_every_figure(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, {})
    families = {"convnet": "cnn", "e2cnn": "strict"}
    rows = [dataclasses.replace(row, family=families.get(row.model, row.family)) for row in rows]
    assert figures.styles(rows) == figures.styles(rows[::-1])
    assert figures.styles(rows)["e2cnn"].color in figures.COLORS["strict"]


def test_figures_are_over_the_measured_error_and_never_the_knob(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, full_board.store.read(full_board.suite.cells)[0])
    made = views_symmetry.error_of_models(rows, "rmse_future", figures.styles(rows))
    hints = re.findall(r"translate\(([\d.]+) [\d.]+\)\"><title>convnet, level (\d)", made.svg)
    places = {int(level): float(x) for x, level in hints}
    assert set(places) == {0, 3, 9}
    assert (places[9] - places[0]) / (places[3] - places[0]) == pytest.approx(3, rel=1e-2), "errors 0, .15, .45"


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
    rows = leaderboard.aggregate(cells, board.store.read(cells)[0])
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
    rows = leaderboard.aggregate(cells, board.store.read(cells)[0])
    (member,) = views_symmetry.envelopes(rows, "rmse_future")["cnn"]
    assert member.config["hidden"] == 64
    made = views_flow.pareto(rows, "rmse_future", figures.styles(rows), "level 0")[0].svg
    dashed = re.search(r'<path d="([^"]*)" fill="none" stroke="currentColor" stroke-width="1.8" stroke-dasharray', made)
    assert dashed[1].count(",") == 2, "the front holds the two that are complete"


def test_protocols_have_figures_of_their_own(new_board, new_cell):
    cells = [new_cell(model, level) for model in ("convnet", "e2cnn") for level in (0, 3)]
    shorter = [
        Cell.model_validate(cell.model_dump() | {"protocol": cell.protocol.model_dump() | {"test_steps": 5}})
        for cell in cells
    ]
    board = new_board([*cells, *shorter])
    for cell in board.suite.cells:
        board.finish(cell)
    stems = [stem for stem, _ in figures_in(board)]
    assert len(set(stems)) == len(stems)
    heads = {"smoke-rotation-levels-small-centered-test-steps-20", "smoke-rotation-levels-small-centered-test-steps-5"}
    assert {f"{head}-error-of-models" for head in heads} <= set(stems)
    html = render(board, "samples_per_second")
    assert "above 1 is better" in html
    assert "(small, centered, test_steps 5)</h2>" in html
    assert "below 1 is better" in render(board)


def test_measured_data_without_an_equivariance_error_say_so(new_board, new_cell):
    board = new_board([new_cell()])
    with board.recording(new_cell()) as recorder:
        recorder.finish("done", {"rmse_future": 2.0, "rmse_validation": 2.0, "parameters": 100})
    html = render(board)
    assert html.count("the data equivariance error of measured data is not known") == 2
    assert "against trainable parameters" in html


def test_calibration_follows_the_slope(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, full_board.store.read(full_board.suite.cells)[0])
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
        made = plot.chart([plot.Series("a", [0, 1, 2], [0, 10, 20], "#000", "o")], plot.Axis("x"), plot.Axis("y"))
        places = [(float(x), float(y)) for x, y in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", made)]
        (x0, y0), (x1, y1), (x2, y2) = places
        assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
        assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
        assert x0 < x2
        assert y0 > y2, "up is more"

    def test_a_decade_is_as_wide_as_the_next(self):
        made = plot.chart(
            [plot.Series("", [1, 10, 100], [1, 1, 1], "#000", "o")], plot.Axis("x", log=True), plot.Axis("y")
        )
        x = [float(place) for place in re.findall(r"translate\(([\d.]+) ", made)]
        assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.15)

    def test_what_cannot_be_drawn_is_left_out(self):
        nothing = plot.Series("a", [0.0, 1.0], [1.0, float("nan")], "#000", "o")
        assert plot.chart([nothing], plot.Axis("x", log=True), plot.Axis("y")) is None

    def test_names_are_escaped_and_xml(self):
        series = plot.Series(HOSTILE + "\x07", [1], [1], "#000", "o", hints=[HOSTILE + "\x07"])
        made = plot.chart([series], plot.Axis("x"), plot.Axis("y"))
        ElementTree.fromstring(plot.standalone(made))
        assert "<script" not in made

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (1e-9, 3e-9), (5, 5), (-1, 0), (1e6, 2e6)])
    def test_every_span_has_ticks(self, low, high):
        made = plot.chart([plot.Series("a", [low, high], [low, high], "#000")], plot.Axis("x"), plot.Axis("y"))
        assert made.count('text-anchor="end"') >= 2


class TestWeights:
    def test_constant_weights_are_strict(self):
        (layer,) = views_weights.relaxations({"layers.0.w": torch.full((2, 8, 8), 0.7)}, (8, 8))
        assert layer.layer == "layers.0"
        assert layer.mean == 0.0

    def test_a_step_in_the_box_is_seen_where_it_is(self):
        w = torch.ones(1, 8, 8)
        w[:, 4:] = 3.0
        (layer,) = views_weights.relaxations({"a.w": w}, (8, 8))
        assert layer.map.shape == (8, 8)
        assert layer.map == pytest.approx(0.5), "each half is 1 from the mean of 2"

    def test_layers_are_known_by_their_shapes(self):
        state = {
            "c.parametrizations.weight.original": torch.randn(3, 3, 4, 5, 6),
            "strict.parametrizations.weight.original": torch.randn(4, 5, 6),
            "local.weight": torch.randn(8, 8, 4, 18),
            "plain.weight": torch.randn(8, 8, 3, 3),
            "turns.w": torch.randn(2, 4),
            "both.w": torch.randn(2, 4, 8, 8),
            "gm.a": torch.zeros(5, 8, 8),
            "bias": torch.randn(8),
        }
        shapes = {one.layer: one.map.shape for one in views_weights.relaxations(state, (8, 8))}
        assert shapes == {"c": (3, 3), "local": (8, 8), "turns": (1, 4), "both": (8, 8), "gm": (8, 8)}

    def test_every_relaxed_layer_of_the_registry_is_found(self):
        """A relaxed baseline whose weights no picture shows is named here."""
        task = Task("smoke_rotation_levels", 1, 2, 8, 8)
        for name in model_registry.model_names():
            model_class = model_registry.model(name)
            if model_class.family != "relaxed" or model_class.supports(task) is not None:
                continue
            widths = {model_class.width_field: 2} if model_class.width_field in model_class.Config.model_fields else {}
            model = model_class(model_class.Config(**widths), task)
            layers = [module for module in model.modules() if isinstance(module, RelaxedLayer)]
            assert len(list(views_weights.relaxations(model.state_dict(), (8, 8)))) >= min(1, len(layers)), name

    def test_a_large_board_does_not_have_all_its_checkpoints_read(self, full_board, monkeypatch):
        records, _ = full_board.store.read(full_board.suite.cells)
        row = next(row for row in leaderboard.aggregate(full_board.suite.cells, records) if row.family == "relaxed")
        read = []
        monkeypatch.setattr(views_weights, "_read", lambda record: read.append(record) or [])
        assert views_weights.pictures([row] * 50, records, "level 0").svg is None
        assert len(read) == views_weights.MOST_READ

    def test_a_broken_checkpoint_is_named_and_costs_the_picture_alone(self, new_board, new_cell):
        cell = new_cell("relaxed_steerable_rotation")
        board = new_board([cell])
        board.finish(cell)
        (board.store.cell_folder(cell.id) / "checkpoint.pt").write_bytes(b"no checkpoint")
        html = render(board)
        assert "no finished model here has a checkpoint" in html
        assert f"Cannot be read: cells/{cell.id}/checkpoint.pt." in html


def test_rollouts_that_cannot_be_read_are_named_and_left_out(full_board):
    broken = []
    for folder in (full_board.store.root / "cells").iterdir():
        if (folder / "predictions.h5").exists():
            (folder / "predictions.h5").write_bytes(b"truncated")
            broken.append(f"cells/{folder.name}/predictions.h5")
    html = render(full_board)
    names = re.search(r"no finished record has a roll-out that can be read. Cannot be read: ([^<]*)\.", html)[1]
    assert set(names.split(", ")) <= set(broken)
    assert "data:image/gif" not in html


def test_x_is_to_the_right_and_y_up():
    field = np.zeros((4, 3), np.float32)
    field[3, 0] = 1.0  # the right-most x, the lowest y
    drawn = rollouts._indices(field, 1.0, 0)
    assert drawn.shape == (3, 4)
    assert drawn[2, 3] == rollouts.SHADES - 1


def test_published_figures_stand_beside_ours(new_board):
    dataset = DatasetChoice(name="smoke_rotation", level="paper", preset="paper", grid="staggered")
    cell = Cell(
        dataset=dataset,
        model=ModelChoice(name="relaxed_steerable_rotation", config={"hidden": 92}),
        protocol=Protocol(name="disjoint"),
        train=Training(),
        seed=0,
    )
    board = new_board([cell])
    with board.recording(cell) as recorder:
        recorder.finish("done", {"rmse_future": 0.81, "rmse_domain": 0.7})
    html = render(board)
    assert "Published results beside ours" in html
    assert "0.80 ± 0.00" in html
    assert "our protocol is disjoint" in html
    ours = [one.ours is not None for one in literature.beside(leaderboard.aggregate([cell], {}))]
    assert ours.count(True) == 2, "the paper's and the reproduction's"
    assert "Published results" not in render(
        new_board([cell.model_copy(update={"dataset": dataset.model_copy(update={"preset": "small"})})])
    )


def test_a_large_board_says_what_is_folded(full_board, monkeypatch):
    monkeypatch.setattr(report, "MOST_DETAILED", 5)
    html = render(full_board)
    assert "The board has more than 5 rows" in html
    assert 'data-metric="vrmse_future"' not in html
    assert 'data-metric="rmse_domain"' in html


def test_figures_stand_alone_with_names_of_files(full_board):
    svgs = figures_in(full_board)
    assert len({stem for stem, _ in svgs}) == len(svgs) > 6
    for stem, svg in svgs:
        assert re.fullmatch(r"[a-z0-9-]+", stem)
        ElementTree.fromstring(svg)


def in_browser(html, tmp_path, dump_dom, script):
    """The text that `script` leaves in the title, once the page has run."""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return unescape(re.search(r"<title>(.*?)</title>", dump_dom(page.as_uri()), re.S)[1])


def assert_a_figure_is_painted(screen, width):
    """Paper, ink and the colour of each family of the board are on the leftmost `width` pixels of the screen."""
    with Image.open(screen) as picture:
        seen = {color for _, color in picture.convert("RGB").crop((0, 0, width, 800)).getcolors(2**24)}
    for color in ("#ffffff", "#1b1f24", *(figures.COLORS[family][0] for family in ("relaxed", "strict", "cnn"))):
        assert ImageColor.getrgb(color) in seen, color


@pytest.mark.browser
def test_a_phone_scrolls_tables_and_never_the_page(full_board, tmp_path, dump_dom):
    page_in = f'<iframe id="f" width="390" height="800" srcdoc="{escape(render(full_board))}"></iframe>'
    script = """
      onload = () => { const d = document.getElementById("f").contentDocument;
        d.querySelector("figure").scrollIntoView();
        const boxes = [...d.querySelectorAll(".scroll")];
        document.title = [d.documentElement.clientWidth, d.documentElement.scrollWidth,
          boxes.length, boxes.filter((b) => b.getBoundingClientRect().right > 390).length].join(" "); };"""
    page = tmp_path / "phone.html"
    page.write_text(f"<!DOCTYPE html><title></title>{page_in}<script>{script}</script>", encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", dump_dom(page.as_uri()))[1]
    width, needed, boxes, outside = map(int, title.split())
    assert needed == width <= 390
    assert boxes > 8
    assert outside == 0
    assert_a_figure_is_painted(tmp_path / "screen.png", 390)


@pytest.mark.browser
def test_the_page_shows_every_figure_and_no_error(full_board, tmp_path, dump_dom):
    title = in_browser(
        render(full_board),
        tmp_path,
        dump_dom,
        """onload = () => { document.querySelectorAll("details").forEach((d) => d.open = true);
        document.body.prepend(document.querySelector(".figures"));  // the screen is that of an unscrolled page
        const images = [...document.querySelectorAll("svg image")];
        const inside = [...document.querySelectorAll("svg text")].filter((t) => {
          const s = t.ownerSVGElement.getBoundingClientRect(), b = t.getBoundingClientRect();
          return b.left < s.left - 2 || b.right > s.right + 2 || b.top < s.top - 2 || b.bottom > s.bottom + 2; });
        document.title = JSON.stringify({figures: document.querySelectorAll("figure svg").length,
          images: images.length, cut: inside.map((t) => t.textContent)}); };""",
    )
    page = json.loads(title)
    assert page["figures"] >= 9
    assert page["images"] >= 8
    assert page["cut"] == [], "no text sticks out of its figure"
    assert_a_figure_is_painted(tmp_path / "screen.png", 1600)


@pytest.mark.browser
def test_a_heading_sorts_and_the_filter_hides(full_board, tmp_path: Path, dump_dom):
    clicks = """<script>
      const button = document.querySelector('[data-metric=rmse_domain] button');
      button.click(); button.click();
      const filter = document.getElementById('filter');
      filter.value = 'e2cnn'; filter.dispatchEvent(new Event('input'));
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(render(full_board).replace("</body>", clicks + "</body>"), encoding="utf-8")
    dom = dump_dom(page.as_uri())
    assert re.search(r'data-metric="rmse_domain" aria-sort="descending"', dom)
    board = dom[dom.index('<table id="table">') :]
    head = board[board.index("<thead>") : board.index("</thead>")]
    body = board[board.index("<tbody>") : board.index("</tbody>")]
    column = ['data-metric="rmse_domain"' in heading for heading in re.findall(r"<th [^>]*>", head)].index(True)
    values = [re.findall(r"<td[^>]*>", row)[column] for row in body.split("<tr")[1:]]
    numbers = [float(text) for cell in values if (text := re.search(r'data-value="([^"]*)"', cell)[1])]
    assert numbers == sorted(numbers, reverse=True)
    assert 'data-value=""' in values[-1], "what is missing stays last"
    assert "3 of 12 rows" in dom
