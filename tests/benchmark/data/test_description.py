"""Data files: the check, the description and the data card."""

import html
import json
import math
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

from benchmark.cell import DatasetChoice, Level
from benchmark.data import dataset_registry, layout
from benchmark.data.check import check
from benchmark.data.dataset import IMPORTED, EquivarianceError, Preset
from benchmark.data.show import info
from benchmark.data.show.card import card
from benchmark.errors import MachineError
from benchmark.markdown import escape
from benchmark.training.experiment import stored_field

BROKEN = (float("nan"), float("inf"))
HOSTILE = "<script>alert(1)</script> | [x](http://evil) `*_$\n# end"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_swirls`, with the swirls as the only dataset."""
    monkeypatch.setattr(dataset_registry, "dataset", lambda name: Swirls())
    return partial(write_swirls, tmp_path)


def problem(path: Path, preset: str = "tiny", level: Level = 0) -> str:
    """The only problem."""
    (only,) = check(path, "swirls", preset, level)
    return only


# The check


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


def altered(*changes: tuple[Any, float]) -> NDArray[np.float32]:
    """Swirls with other values at some indices."""
    field = swirls()
    for index, value in changes:
        field[index] = value
    return field


def not_finite(value: float) -> dict[str, Any]:
    return {"field": altered(((4, slice(7, 9), 0, 2, 3), value), ((5, 1, 1, 5, 5), value))}


def impossible_errors(value: float) -> dict[str, Any]:
    return {"equivariance_errors": [EquivarianceError("rot90", value, 0.5), EquivarianceError("rot180", 0.5, value)]}


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tiny", {"field": swirls(width=11)}, "height and width 2 x 20 x 11, the preset tiny 2 x 20 x 12"),
        ("tiny", {"field": swirls(frames=63)}, "63 frames a run, and the preset tiny 64"),
        ("tiny", {"field": swirls(frames=65)}, "65 frames a run, and the preset tiny 64"),
        (IMPORTED, {"field": swirls(frames=39)}, "39 frames a run, and the preset imported at least 40"),
        ("tiny", {"field": swirls(runs=5)}, "5 runs, and the splits name the runs 0 to 5"),
        ("tiny", {"field": swirls(runs=7)}, "7 runs, and the splits name the runs 0 to 5"),
        ("tiny", {"run_parameters": [{}]}, "6 runs, and describes the parameters of 1"),
        ("tiny", {"spacing": 0.0}, "its spacing is 0.0, and should be a positive number"),
        ("tiny", {"time_step": 0.0}, "its time_step is 0.0, and should be a positive number"),
        ("tiny", {"field": altered(([1, 3], 0))}, "run 1, 3 is zero everywhere"),
        ("tiny", {"field": np.zeros_like(swirls())}, "run 0, 1, 2 and 3 more is zero everywhere"),
        *(("tiny", not_finite(value), "2 in run 4 from frame 7 on, 1 in run 5 from frame 1 on") for value in BROKEN),
        *(
            (
                "tiny",
                impossible_errors(value),
                f"absolute one of rot90 is {value}, the relative one of rot180 is {value}",
            )
            for value in (-0.1, *BROKEN)
        ),
    ],
)
def test_problems(write: Callable[..., Path], preset: str, changes: dict[str, Any], message: str) -> None:
    assert message in problem(write(preset=preset, **changes), preset)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (swirls(height=24, width=32), "components, height and width 2 x 24 x 32, the preset tiny 2 x 20 x 12"),
        (swirls().swapaxes(-1, -2), "components, height and width 2 x 12 x 20, the preset tiny 2 x 20 x 12"),
        (swirls()[:, :, :1], "components, height and width 1 x 20 x 12, the preset tiny 2 x 20 x 12"),
        (swirls()[:, :1], "it has 1 frames a run, and the preset tiny 64"),
        (swirls()[:2], "it has 2 runs, and the splits name the runs 0 to 5"),
        (altered((([0, 3], slice(2)), math.nan)), "960 in run 0 from frame 0 on, 960 in run 3 from frame 0 on"),
    ],
)
def test_a_training_refuses_a_field_that_is_not_that_of_its_preset(
    write: Callable[..., Path], tmp_path: Path, field: NDArray[np.float32], message: str
) -> None:
    """The checksum of each file is right, as if the file had been made by other means."""
    path = write(field)
    choice = DatasetChoice(name="swirls", level=0, preset="tiny", grid="centered")
    with pytest.raises(MachineError, match=re.escape(message)) as refusal:
        stored_field(choice, tmp_path)
    for part in (f"{path}: ", "`symbench data check`", "delete it; `symbench data prepare SUITE` makes it again"):
        assert part in str(refusal.value)
    write()
    assert stored_field(choice, tmp_path).grid == "centered"
    path.rename(path.with_name("level_0.5.h5"))
    with pytest.raises(
        MachineError, match=r"it holds swirls level 0 \(tiny\), and by its name it should hold swirls level"
    ):
        stored_field(choice.model_copy(update={"level": 0.5}), tmp_path)


def test_imported_files_may_be_longer(write: Callable[..., Path]) -> None:
    assert check(write(swirls(frames=50), IMPORTED), "swirls", IMPORTED, 0) == []


def test_divergence(write: Callable[..., Path]) -> None:
    field, size = swirls(), np.abs(swirls()[3]).max()
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
def test_divergence_of_files_that_may_have_it(write: Callable[..., Path], promise: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).standard_normal(swirls().shape).astype(np.float32)
    assert check(write(noise, **promise), "swirls", "tiny", 0) == []


# The description


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
    splits = info.describe(layout.read(write()), Swirls())["splits"]["disjoint"]
    assert splits["train"] == {"runs": [0, 1, 2, 3], "windows": 4 * (120 - 16 + 1)}
    assert splits["domain"] == {"runs": [4, 5], "windows": 2 * 18}


def test_unknown_numbers_are_none(write: Callable[..., Path]) -> None:
    field = altered(((5, -1, 0, 0, 0), np.nan))
    broken = info.describe(
        layout.read(write(field, equivariance_errors=[EquivarianceError("rot90", *BROKEN)])), Swirls()
    )
    assert json.loads(json.dumps(broken, allow_nan=False)) == broken
    assert (broken["rms"], broken["max"], broken["mean_absolute_error"]) == (None, None, None)
    unmeasured = info.describe(layout.read(write(equivariance_errors=[])), Swirls())
    assert unmeasured["mean_absolute_error"] is unmeasured["mean_relative_error"] is None
    assert info.row(unmeasured)["equivariance_error"] == "-"


def test_the_row_of_a_table(write: Callable[..., Path]) -> None:
    row = info.row(info.describe(layout.read(write()), Swirls()))
    assert [row[key] for key in ("state", "equivariance_error", "relative", "size")] == [
        "20x12",
        "0.5",
        "1",
        "0.7 MB",
    ]


# The data card


def described(write: Callable[..., Path], levels: Sequence[Level] = (0, 0.5, "paper"), **changes: Any) -> list[Any]:
    return [info.describe(layout.read(write(level=level, **changes)), Swirls()) for level in levels]


def test_a_card_is_complete(write: Callable[..., Path]) -> None:
    descriptions = described(write)
    text = card("swirls", "tiny", descriptions, {"A sheet": Path("pictures/level 0.png")})
    for part in (
        *(description["checksum"] for description in descriptions),
        "Vortices that a wall `moves`.",
        "Level: how much the wall moves.",
        "![A sheet](pictures/level%200.png)",
        "| paper | 0.25 | 6 | 64 |",
        "| rot45 | interpolated | 0.75 | 0.75 | 0.75 |",
        "| train | 0-3 | 0 |",
        "| domain | 4-5 | 40 |",
        "`disjoint` does not fit: a validation window of 10 input",
        "- swirls: {level: [0, 0.5, paper], preset: tiny}",
        "| box.size | 40.0 |",
        "| 5 | strength 5 |",
        "Simulated by symbench",
        "error of an interpolated element",
    ):
        assert part in text
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


def test_parameters_have_no_rounding_error(write: Callable[..., Path]) -> None:
    text = card("swirls", "tiny", described(write, parameters={"trap": {"field": [0.1 + 0.2, 3.0], "frames": 20}}), {})
    assert r"| trap.field | \[0.3, 3.0\] |" in text
    assert "| trap.frames | 20 |" in text


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


def test_values_from_a_file_are_no_markup(write: Callable[..., Path]) -> None:
    """A Markdown parser as in a repository browser finds every value as text."""
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
