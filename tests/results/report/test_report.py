"""The HTML report: escaping, links, figures, and its look in a browser."""

import dataclasses
import json
import re
import shlex
from html import escape, unescape
from xml.etree import ElementTree

import pytest
from fabricated_board import report_of
from PIL import Image, ImageColor

from benchmark import discovery
from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training
from results.board import leaderboard
from results.board.reproduce import Commands
from results.figures import figures
from results.report import literature, report

HOSTILE = "<script>alert(1)</script>\"'\n & {{ 7 * 7 }} $x$"


def render(board, metric="rmse_future"):
    return report_of(board, metric).html


def figures_in(board):
    return report_of(board).svg_figures


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
    (folder / "record.json").write_text('"<script>alert(2)</script>"')
    html = render(board)
    assert "alert(1)" in html
    assert html.count("<script") == 1
    assert not re.search(r"<script>alert", html)
    assert "{{ 7 * 7 }}" in html


def test_broken_missing_and_diverged_are_named(full_board):
    cell = full_board.suite.cells[0]
    (full_board.store.cell_folder(cell.id) / "record.json").write_text("{")
    html = render(full_board)
    assert "Broken records" in html
    assert f"cells/{cell.id}" in html
    assert "1 diverged, 1 absent" in html
    assert "n/a: needs a square grid" in html
    assert str(full_board.store.root) not in html


def test_a_store_without_results_gives_a_page(new_board, new_cell):
    html = render(new_board([new_cell()]))
    assert "<svg" not in html
    (titles,) = re.findall(r"Not drawn: ([^(]*) \(no finished record has the numbers for it yet\)", html)
    assert titles.count("; ") >= 5
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
    partly = dataclasses.replace(suite, tuned_by_option=True, untuned=untuned)
    meets = dataclasses.replace(suite, cells=(*suite.cells, *untuned))
    chosen = suite.only("model=convnet")
    for shown, run in ((partly, meets), (chosen, suite)):
        for row in leaderboard.aggregate(shown.cells, {}):
            for line in Commands(shown).of_row(row).splitlines():
                command = shlex.split(line)
                selected = {cell.id for cell in run.only(command[4]).cells}
                assert selected <= {seed.cell_id for seed in row.seeds}, line
                assert command[5:] == (["--tuned"] if shown.tuned_by_option else [])
    plugin = tmp_path / "my model.py"
    plugin.touch()
    monkeypatch.setattr(discovery.BASELINES, "plugins", {"my model": plugin})
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
    (titles,) = re.findall(r"Not drawn: ([^(]*) \(the data equivariance error of measured data is not known\)", html)
    assert titles.count("; ") == 1
    assert "against trainable parameters" in html


def test_rollouts_that_cannot_be_read_are_named_and_left_out(full_board):
    broken = []
    for folder in (full_board.store.root / "cells").iterdir():
        if (folder / "predictions.h5").exists():
            (folder / "predictions.h5").write_bytes(b"truncated")
            broken.append(f"cells/{folder.name}/predictions.h5")
    html = render(full_board)
    names = re.search(r"no finished record has a roll-out that can be read. Cannot be read: ([^<]*)\)\.", html)[1]
    assert set(names.split(", ")) <= set(broken)
    assert "data:image/gif" not in html


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
    assert "protocol disjoint instead of icml2022" in html
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
    """DOM of the page after `script`, and its title."""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    dom = dump_dom(page.as_uri())
    return dom, unescape(re.search(r"<title>(.*?)</title>", dom, re.S)[1])


def assert_a_figure_is_painted(screen, width):
    """Paper, ink and the colour of each family of the board are on the leftmost `width` pixels of the screen."""
    with Image.open(screen) as picture:
        seen = {color for _, color in picture.convert("RGB").crop((0, 0, width, 800)).getcolors(2**24)}
    for color in ("#ffffff", "#1b1f24", *(figures.FAMILIES[family].color for family in ("relaxed", "strict", "cnn"))):
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
    _, title = in_browser(f"<!DOCTYPE html><title></title>{page_in}</body>", tmp_path, dump_dom, script)
    width, needed, boxes, outside = map(int, title.split())
    assert needed == width <= 390
    assert boxes > 8
    assert outside == 0
    assert_a_figure_is_painted(tmp_path / "screen.png", 390)


@pytest.mark.browser
def test_the_page_shows_every_figure_and_no_error(full_board, tmp_path, dump_dom):
    _, title = in_browser(
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
def test_a_heading_sorts_and_the_filter_hides(full_board, tmp_path, dump_dom):
    clicks = """
      const button = document.querySelector('[data-metric=rmse_domain] button');
      button.click(); button.click();
      const filter = document.getElementById('filter');
      filter.value = 'e2cnn'; filter.dispatchEvent(new Event('input'));"""
    dom, _ = in_browser(render(full_board), tmp_path, dump_dom, clicks)
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


@pytest.mark.browser
def test_a_name_hides_its_line_and_keys_read_its_values(full_board, tmp_path, dump_dom):
    """In the first figure: Enter on a name hides its line in all figures, an arrow key reads its first value aloud."""
    script = """{
      const hint = document.getElementById("hint");
      const name = document.querySelector("figure g.name[data-name=e2cnn]");
      const key = (key) => name.dispatchEvent(new KeyboardEvent("keydown", {key}));
      const isSeen = (part) => getComputedStyle(part).display !== "none";
      const seen = () => [...document.querySelectorAll("g.line[data-name=e2cnn]")].filter(isSeen).length;
      const before = seen();
      key("ArrowRight");
      const read = hint.textContent;
      key("Enter");
      const hidden = [seen(), name.getAttribute("aria-pressed"), isSeen(name)];
      key(" ");
      const marker = document.querySelector("figure g.line[data-name=convnet] [role=img]");
      const box = marker.getBoundingClientRect(), middle = {clientX: box.left + 4, clientY: box.top + 4};
      marker.ownerSVGElement.dispatchEvent(new PointerEvent("pointermove", middle));
      document.title = JSON.stringify({before, hidden, read, after: seen(), near: hint.textContent,
        label: marker.getAttribute("aria-label"), titles: document.querySelectorAll("g.line title").length}); }"""
    _, title = in_browser(render(full_board), tmp_path, dump_dom, script)
    page = json.loads(title)
    assert page["before"] > 2
    assert page["hidden"] == [0, "false", True]
    assert page["after"] == page["before"]
    assert re.fullmatch(r"e2cnn, level 0: 0\.\d+ \[.*\], 2 seeds", page["read"])
    assert page["near"] == page["label"] != page["read"]
    assert page["titles"] == 0, "the browser would show them beside the hint"
