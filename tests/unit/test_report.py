import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from results import figures, leaderboard, report

HOSTILE = "<script>alert(1)</script>\"'\n & {{ 7 * 7 }} $x$"


def render(board, metric="rmse_future"):
    records, broken = board.store.read(board.suite.cells)
    return report.render(board.store, board.suite, records, broken, metric)


def test_the_same_store_gives_the_same_bytes(full_board):
    assert render(full_board) == render(full_board)


def test_the_page_needs_nothing_from_outside(full_board):
    html = render(full_board)
    assert not re.findall(r"(?:src|href|srcset|action)\s*=\s*[\"'](?!data:|#)", html)
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
    assert html.count("Left out: no finished record") == 4
    assert "No record tells" in html


def test_every_metric_can_lead(full_board):
    for metric in ("rmse_validation", "samples_per_second"):
        assert f'data-metric="{metric}"' in render(full_board, metric)


def test_the_command_reproduces_the_row_and_no_other(full_board):
    rows = leaderboard.aggregate(full_board.suite.cells, {})
    for row in rows:
        command = shlex.split(report.reproduce(full_board.suite, row))
        assert command[:4] == ["symbench", "run", "levels.yaml", "--only"]
        assert {cell.id for cell in full_board.suite.only(command[4]).cells} == {seed.cell_id for seed in row.seeds}


def test_what_only_cannot_say_is_reproduced_by_id(new_board, new_cell):
    cells = [new_cell(epochs=1), new_cell(epochs=2)]
    rows = leaderboard.aggregate(cells, {})
    commands = [report.reproduce(new_board(cells).suite, row) for row in rows]
    assert commands == [f"symbench run levels.yaml --only id={cell.id}" for cell in cells]


def test_the_rollout_picture_is_small(full_board):
    html = render(full_board)
    assert html.count("data:image/png;base64") >= 3 * 4
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
    head = dom[dom.index("<thead>") : dom.index("</thead>")]
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    column = ['data-metric="rmse_domain"' in heading for heading in re.findall(r"<th [^>]*>", head)].index(True)
    values = [re.findall(r"<td[^>]*>", row)[column] for row in body.split("<tr")[1:]]
    numbers = [float(text) for cell in values if (text := re.search(r'data-value="([^"]*)"', cell)[1])]
    assert numbers == sorted(numbers, reverse=True)
    assert 'data-value=""' in values[-1], "what is missing stays last"
    assert "3 of 12 rows" in dom
