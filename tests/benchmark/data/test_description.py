"""Stored fields described: what is wrong with one, what it is, and its data card."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from swirls import FRAMES, HEIGHT, RUNS, WIDTH, Swirls, swirls, write_swirls

from benchmark.cell import Level
from benchmark.data import dataset_registry, layout
from benchmark.data.check import check
from benchmark.data.dataset import IMPORTED, EquivarianceError, Preset
from benchmark.data.show import info
from benchmark.data.show.card import card
from benchmark.markdown import escape

HOSTILE = "<script>alert(1)</script> | [x](http://evil) `*_$\n# end"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_swirls`, with the swirls as the only dataset that there is."""
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Swirls())
    return partial(write_swirls, tmp_path)


def problem(path: Path, preset: str = "tiny", level: Level = 0) -> str:
    """The one problem there is."""
    (only,) = check(path, "swirls", preset, level)
    return only


# What check names


def test_nothing_is_wrong(write: Callable[..., Path]) -> None:
    assert check(write(), "swirls", "tiny", 0) == []
    assert check(write(level="paper"), "swirls", "tiny", "paper") == []


def test_missing_truncated_and_altered(write: Callable[..., Path], tmp_path: Path) -> None:
    assert problem(tmp_path / "none.h5") == "no such data file; `symbench data prepare SUITE` makes it"
    path = write()
    with h5py.File(path) as file:
        offset = file["field"].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x01\x02\x03\x04")
    assert problem(path).startswith("the field does not match its checksum")
    os.truncate(path, path.stat().st_size // 2)
    assert problem(path).startswith("not a whole HDF5 file")
    assert str(path) not in problem(path)


def test_another_field_under_this_name(write: Callable[..., Path]) -> None:
    path = write(level=0.5)
    assert "it holds swirls level 0.5 (tiny), and by its name it should hold swirls level 0 (tiny)" in problem(path)


def test_presets_and_levels_that_do_not_exist(write: Callable[..., Path]) -> None:
    assert problem(write(), preset="tinny").startswith("unknown preset 'tinny'; did you mean 'tiny'")
    assert problem(write(), level=7).startswith("unknown level 7")


@pytest.mark.parametrize(
    ("preset", "field", "said"),
    [
        ("tiny", swirls(width=11), "components, height and width 2 x 20 x 11, the preset tiny 2 x 20 x 12"),
        ("tiny", swirls(frames=63), "63 frames a run, and the preset tiny 64"),
        ("tiny", swirls(frames=65), "65 frames a run, and the preset tiny 64"),
        (IMPORTED, swirls(frames=39), "39 frames a run, and the preset imported at least 40"),
        ("tiny", swirls(runs=5), "5 runs, and the splits name the runs 0 to 5"),
        ("tiny", swirls(runs=7), "7 runs, and the splits name the runs 0 to 5"),
    ],
)
def test_a_shape_that_does_not_fit(
    write: Callable[..., Path], preset: str, field: NDArray[np.float32], said: str
) -> None:
    assert said in problem(write(field, preset), preset)


def test_imported_files_may_be_longer(write: Callable[..., Path]) -> None:
    assert check(write(swirls(frames=50), IMPORTED), "swirls", IMPORTED, 0) == []


def test_run_parameters_that_are_too_few(write: Callable[..., Path]) -> None:
    assert "6 runs, and describes the parameters of 1" in problem(write(run_parameters=[{}]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(write: Callable[..., Path], value: float) -> None:
    field = swirls()
    field[4, 7:9, 0, 2, 3] = value
    field[5, 1, 1, 5, 5] = value
    assert "not finite: 2 in run 4 from frame 7 on, 1 in run 5 from frame 1 on" in problem(write(field))


def test_a_run_without_flow(write: Callable[..., Path]) -> None:
    field = swirls()
    field[[1, 3]] = 0
    assert "run 1, 3 is zero everywhere" in problem(write(field))


def test_divergence(write: Callable[..., Path]) -> None:
    field = swirls()
    size = np.abs(field[3]).max()
    field[3, 9, 0, 5, 5] += 1e-4 * size
    assert f"divergence: {1e-4 * size / 2:.2g} / time in run 3, frame 9" in problem(write(field))
    field[3, 2] = np.nan
    broken, divergent = check(write(field), "swirls", "tiny", 0)
    assert "not finite" in broken
    assert "run 3, frame 9" in divergent
    field = swirls()
    field[3, 9, 0, 5, 5] += 1e-7 * size
    assert check(write(field), "swirls", "tiny", 0) == [], "float32 rounds"


@pytest.mark.parametrize("promise", [{"divergence_free": False}, {"grid": "centered"}])
def test_divergence_where_none_is_promised_away(write: Callable[..., Path], promise: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).standard_normal(swirls().shape).astype(np.float32)
    assert check(write(noise, **promise), "swirls", "tiny", 0) == []


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_impossible_equivariance_errors(write: Callable[..., Path], value: float) -> None:
    errors = [EquivarianceError("rot90", value, 0.5), EquivarianceError("rot180", 0.5, value)]
    said = problem(write(equivariance_errors=errors))
    assert f"the absolute one of rot90 is {value}, the relative one of rot180 is {value}" in said


@pytest.mark.parametrize("name", ["spacing", "time_step"])
def test_impossible_units(write: Callable[..., Path], name: str) -> None:
    assert f"its {name} is 0.0, and should be a positive number" in problem(write(**{name: 0.0}))


def test_many_problems_are_cut_short(write: Callable[..., Path]) -> None:
    assert "run 0, 1, 2 and 3 more is zero everywhere" in problem(write(np.zeros_like(swirls())))


# What describe says


def test_a_description_survives_json(write: Callable[..., Path]) -> None:
    description = info.describe(layout.read(write(level="paper")), Swirls())
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert description["shape"] == [RUNS, FRAMES, 2, HEIGHT, WIDTH]
    assert (description["level"], description["level_value"], description["group"]) == ("paper", 0.25, "C4")
    assert (description["mean_absolute_error"], description["mean_relative_error"]) == (0.5, 1.0)
    assert [error["exact"] for error in description["equivariance_errors"]] == [True, False]
    assert list(description["splits"]["disjoint"]) == ["reason"]
    assert description["splits"]["icml2022"]["future"] == {"runs": [0, 1, 2, 3], "windows": 4 * 5}
    field = swirls().astype(np.float64)
    assert description["rms"] == pytest.approx(np.sqrt((field**2).mean()), rel=1e-6)
    assert description["max"] == pytest.approx(np.abs(field).max(), rel=1e-6)
    assert description["bytes"] > field.size * 4


def test_windows_are_counted_over_runs(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Swirls.presets, "tiny", Preset(HEIGHT, WIDTH, 200))
    found = info.describe(layout.read(write()), Swirls())["splits"]["disjoint"]
    assert found["train"] == {"runs": [0, 1, 2, 3], "windows": 4 * (120 - 16 + 1)}
    assert found["domain"] == {"runs": [4, 5], "windows": 2 * 18}


def test_what_is_not_known_is_none(write: Callable[..., Path]) -> None:
    field = swirls()
    field[5, -1, 0, 0, 0] = np.nan
    errors = [EquivarianceError("rot90", float("nan"), float("inf"))]
    broken = info.describe(layout.read(write(field, equivariance_errors=errors)), Swirls())
    assert json.loads(json.dumps(broken, allow_nan=False)) == broken
    assert (broken["rms"], broken["max"], broken["mean_absolute_error"]) == (None, None, None)
    unmeasured = info.describe(layout.read(write(equivariance_errors=[])), Swirls())
    assert unmeasured["mean_absolute_error"] is unmeasured["mean_relative_error"] is None
    assert info.row(unmeasured)["equivariance_error"] == "-"


def test_the_line_of_a_table(write: Callable[..., Path]) -> None:
    line = info.row(info.describe(layout.read(write()), Swirls()))
    assert line["cells"] == "20 x 12"
    assert (line["equivariance_error"], line["relative"]) == ("0.5", "1")
    assert line["size"] == "0.7 MB"


# The data card


def described(write: Callable[..., Path], levels: Sequence[Level] = (0, 0.5, "paper"), **changes: Any) -> list[Any]:
    return [info.describe(layout.read(write(level=level, **changes)), Swirls()) for level in levels]


def test_a_card_says_it_all(write: Callable[..., Path]) -> None:
    descriptions = described(write)
    text = card("swirls", "tiny", descriptions, {"A sheet": Path("pictures/level 0.png")})
    assert "Vortices that a wall `moves`." in text
    assert "Level: how much the wall moves." in text
    assert "![A sheet](pictures/level%200.png)" in text
    for description in descriptions:
        assert description["checksum"] in text
    assert "| paper | 0.25 | 6 | 64 |" in text
    assert "| rot45 | interpolated | 0.75 | 0.75 | 0.75 |" in text
    assert "| train | 0-3 | 0 |" in text
    assert "| domain | 4-5 | 40 |" in text
    assert "`disjoint` does not fit: a validation window of 10 input" in text
    assert "- swirls: {level: [0, 0.5, paper], preset: tiny}" in text
    assert "| box.size | 40.0 |" in text
    assert "| 5 | strength 5 |" in text
    assert "Simulated by symbench" in text
    assert "error of an interpolated element" in text
    assert "Not on this disk" not in text
    assert "\n\n\n" not in text
    assert text == card("swirls", "tiny", descriptions, {"A sheet": Path("pictures/level 0.png")})


def test_an_imported_card_names_the_owners(write: Callable[..., Path]) -> None:
    (description,) = described(write, ["paper"], preset=IMPORTED, equivariance_errors=[], divergence_free=False)
    text = card("swirls", IMPORTED, [description], {})
    assert "    symbench data import swirls FOLDER" in text
    assert "symbench gives no licence for this data" in text
    assert "ask the authors" in text
    assert "Not measured: the set-up cannot be transformed." in text
    assert "Without a measured equivariance error: level paper." in text
    assert "Not divergence-free on the staggered stencil: level paper." in text
    assert "Not on this disk: level 0, 0.5." in text


def test_many_elements_are_summed_up(write: Callable[..., Path]) -> None:
    errors = [EquivarianceError(f"scale{i}", 0.1 * i, 0.2 * i, False) for i in range(1, 38)]
    text = card("swirls", "tiny", described(write, equivariance_errors=errors), {})
    assert "| the lowest | 0.1 | 0.1 | 0.1 |" in text
    assert "| the highest | 3.7 | 3.7 | 3.7 |" in text
    assert "Interpolated: scale1, scale2" in text


def test_the_snippet_loads_the_field(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(level="paper")
    (snippet,) = re.findall(r"```python\n(.*?)```", card("swirls", "tiny", described(write, ["paper"]), {}), re.S)
    monkeypatch.chdir(path.parent)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["field"].shape == (RUNS, FRAMES, 2, HEIGHT, WIDTH)
    assert np.array_equal(names["field"], swirls())
    assert (names["spacing"], names["time_step"]) == (2.0, 0.5)
    assert names["runs"][5]["strength"] == 5.0
    assert snippet.count("\n") == 5


def test_what_comes_from_a_file_is_no_markup(write: Callable[..., Path]) -> None:
    """Read as a browser of repositories reads it, every value stands there as it is."""
    changes = {
        "parameters": {HOSTILE: HOSTILE},
        "run_parameters": [{"note": HOSTILE[: 5 + run]} for run in range(RUNS)],
        "equivariance_errors": [EquivarianceError(HOSTILE, 0.1, 0.2)],
    }
    text = card("swirls", "tiny", described(write, [0], **changes), {HOSTILE: Path("a).png")})
    blocks = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    tokens = [token for block in blocks for token in (block, *(block.children or ()))]
    assert {token.type for token in tokens}.isdisjoint({"html_block", "html_inline", "link_open", "hr", "s_open"})
    (image,) = (token for token in tokens if token.type == "image")
    shown = HOSTILE.replace("\n", " ")
    assert (image.attrs["src"], html.unescape(image.content.replace("\\", ""))) == ("a%29.png", shown)
    cells = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    assert cells.count(shown) == 3
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == len([line for line in text.splitlines() if line.startswith("|") and "---" not in line])
    assert [token.content for token in tokens if token.type == "inline"].count("end") == 0
    assert escape("a|b`c\nd") == "a\\|b\\`c d"
