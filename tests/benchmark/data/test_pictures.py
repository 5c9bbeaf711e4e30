"""Pictures of data files: contact sheets, animations, and the measured errors of levels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from swirls import Swirls, swirls, write_swirls

from benchmark.cell import Level
from benchmark.data.dataset import EquivarianceError
from benchmark.data.layout import StoredField, read
from benchmark.data.show import animation, info, pictures, planes
from benchmark.errors import MachineError

Stored = Callable[..., StoredField]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """`write_swirls`, read back."""
    return lambda *arguments, **changes: read(write_swirls(tmp_path, *arguments, **changes))


def pixels(path: Path) -> NDArray[np.int16]:
    with Image.open(path) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("PNG", 1)
        assert "Software" not in picture.info
        return np.asarray(picture.convert("RGB")).astype(np.int16)


def redness(picture: NDArray[np.int16]) -> NDArray[np.int16]:
    return picture[..., 0] - picture[..., 2]


def test_vorticity_of_a_turning_body() -> None:
    """u = -w y, v = w x has the vorticity 2 w, on either grid."""
    for grid, (u_at, v_at) in {"centered": ((0.5, 0.5), (0.5, 0.5)), "staggered": ((0, 0.5), (0.5, 0))}.items():
        x, y = (np.arange(n) * 2.0 for n in (7, 5))
        u = np.broadcast_to(-0.3 * (y + 2 * u_at[1]), (7, 5))
        v = np.broadcast_to(0.3 * (x + 2 * v_at[0])[:, None], (7, 5))
        vorticity = planes.vorticity(np.stack((u, v)).astype(np.float32), grid, 2.0)
        assert vorticity.shape == ((7, 5) if grid == "centered" else (6, 4))
        assert np.allclose(vorticity, 0.6, atol=1e-6)


def test_vorticity_sits_at_the_corners() -> None:
    """A single face turns the corners at its two ends, in opposite senses."""
    for component, others in ((0, {(2, 1): -0.5, (2, 2): 0.5}), (1, {(2, 1): 0.5, (3, 1): -0.5})):
        field = np.zeros((2, 7, 5), np.float32)
        field[component, 3, 2] = 1
        vorticity = planes.vorticity(field, "staggered", 2.0)
        assert {tuple(index): vorticity[tuple(index)] for index in np.argwhere(vorticity).tolist()} == others


@pytest.mark.parametrize(("height", "width"), [(20, 20), (62, 23), (23, 62)])
def test_a_contact_sheet(stored: Stored, tmp_path: Path, height: int, width: int) -> None:
    """Red where the vortex turns counter-clockwise: in the lower left part of the first panels."""
    field, path = stored(swirls(height=height, width=width)), tmp_path / "sheet.png"
    pictures.contact_sheet(field, path)
    picture = pixels(path)
    assert 300 < min(picture.shape[:2]) <= max(picture.shape[:2]) < 1400
    turning = redness(picture)[:, : picture.shape[1] * 8 // 10]
    assert (turning > 100).mean() > 0.001
    again = tmp_path / "again.png"
    pictures.contact_sheet(field, again)
    assert path.read_bytes() == again.read_bytes()


def test_one_run_and_one_frame(stored: Stored, tmp_path: Path) -> None:
    field = stored(swirls(runs=1, frames=1))
    pictures.contact_sheet(field, tmp_path / "sheet.png")
    assert np.ptp(pixels(tmp_path / "sheet.png")) > 200
    animation.animation(field, tmp_path / "one.gif")
    assert frames_of(tmp_path / "one.gif").shape[0] == 1


def frames_of(path: Path) -> NDArray[np.int16]:
    """(frame, row, column, 3)."""
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")).astype(np.int16))
        return np.stack(frames)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (62, 23), (23, 62)])
def test_an_animation(stored: Stored, tmp_path: Path, height: int, width: int) -> None:
    field, path = stored(swirls(frames=90, height=height, width=width)), tmp_path / "moving.gif"
    animation.animation(field, path)
    frames = frames_of(path)
    assert len(frames) == animation.MOST_FRAMES
    assert path.stat().st_size < animation.MOST_BYTES
    assert max(frames.shape[1:3]) < 700
    with Image.open(path) as picture:
        assert (picture.info["loop"], picture.info["duration"]) == (0, animation.MILLISECONDS)
    again = tmp_path / "again.gif"
    animation.animation(field, again)
    assert path.read_bytes() == again.read_bytes()


def only_panel(frame: NDArray[np.int16]) -> NDArray[np.int16]:
    """Pixels of the only panel, without its frame: the corners within 20 x 12 cells."""
    wide, tall = (cells * 13 for cells in (19, 11))
    bottom = frame.shape[0] - animation.FOOT
    return frame[bottom - tall + 2 : bottom - 2, animation.MARGIN + 2 : animation.MARGIN + wide - 2]


def test_x_is_to_the_right_and_y_up(stored: Stored, tmp_path: Path) -> None:
    """The vortex wanders along x, and stays in the lower half; the strongest run is the last panel."""
    animation.animation(stored(swirls(runs=1, frames=20)), tmp_path / "moving.gif")
    frames = frames_of(tmp_path / "moving.gif")
    first, last = (np.clip(redness(only_panel(frame)), 60, None) - 60 for frame in (frames[0], frames[-1]))
    rows, columns = np.indices(first.shape)
    columns, rows = columns / first.shape[1], rows / first.shape[0]
    assert np.average(columns, weights=first) < 0.4 < 0.6 < np.average(columns, weights=last)
    for weight in (first, last):
        assert np.average(rows, weights=weight) > 0.5


def test_values_that_are_not_finite_are_black(stored: Stored, tmp_path: Path) -> None:
    field = swirls(runs=1)
    field[:, :, :, :10] = np.nan
    animation.animation(stored(field), tmp_path / "broken.gif")
    panel = only_panel(frames_of(tmp_path / "broken.gif")[0])
    assert (panel[:, :20] < 40).all()
    assert (panel[:, -20:] > 40).any()


def test_noise_makes_a_shorter_animation(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "MOST_BYTES", 150_000)
    noise = np.random.default_rng(0).standard_normal((2, 64, 2, 20, 20)).astype(np.float32)
    animation.animation(stored(noise), tmp_path / "noise.gif")
    assert len(frames_of(tmp_path / "noise.gif")) < 64
    assert (tmp_path / "noise.gif").stat().st_size < 150_000


def test_labels_say_what_differs() -> None:
    parameters = [
        {"inflow": [8.0, 5.0], "box": {"size": 64.0 + run}, "side": run, "strength": 0.1, "other": None}
        for run in range(2)
    ]
    assert planes.run_labels(parameters) == ["side 0", "side 1"]
    moved = planes.run_labels([*parameters, {**parameters[0], "inflow": [0.123456, 1.0]}])
    assert moved[2] == "inflow (0.1235,\u00a01), side 0"
    long = planes.run_labels([{str(key): key + run for key in range(40)} for run in range(2)])
    assert {len(label) for label in long} == {planes.LONGEST_LABEL}


def level_errors(level: Level, knob: float, elements: int, exact: bool = True) -> pictures.LevelErrors:
    errors = [EquivarianceError(f"g{i}", knob * (i + 1), knob * (i + 1) / 10, exact) for i in range(elements)]
    return pictures.LevelErrors(level, knob, tuple(errors))


@pytest.mark.parametrize("elements", [1, 3, 37])
@pytest.mark.parametrize("exact", [True, False])
def test_symmetry_breaking(tmp_path: Path, elements: int, exact: bool) -> None:
    points = [level_errors(*point, elements, exact) for point in ((0, 0.0), ("paper", 0.3), (1, 1.0))]
    path = tmp_path / "errors.png"
    assert pictures.symmetry_breaking(points, path, "knob " * 40)
    picture = pixels(path)
    assert picture.shape == (429, 1012, 3)
    dark = (picture.max(-1) < 80).mean()
    assert 0.005 < dark < 0.1
    assert pictures.symmetry_breaking(points[::-1], tmp_path / "again.png", "knob " * 40)
    assert path.read_bytes() == (tmp_path / "again.png").read_bytes()


def test_the_legend_tells_exact_from_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    legends = []

    def keep(figure: Any, *arguments: Any, **options: Any) -> None:
        legends.append([text.get_text() for text in figure.legends[0].get_texts()])
        original(figure, *arguments, **options)

    original = pictures.Figure.savefig
    monkeypatch.setattr(pictures.Figure, "savefig", keep)
    mixed = pictures.LevelErrors(
        0, 0.0, (EquivarianceError("rot90", 0.1, 0.2), EquivarianceError("rot45", 0.1, 0.2, False))
    )
    pictures.symmetry_breaking([mixed], tmp_path / "few.png")
    many = [level_errors(0, 0.0, 37, False), level_errors("paper", 1.0, 37, False)]
    pictures.symmetry_breaking(many, tmp_path / "many.png")
    assert legends == [
        ["rot90", "rot45\n(interpolated)", "mean"],
        ["37 elements\n(interpolated)", "mean", "paper"],
    ]


def test_no_picture_of_errors_that_nobody_measured(tmp_path: Path) -> None:
    assert not pictures.symmetry_breaking([pictures.LevelErrors("paper", 0.0, ())], tmp_path / "errors.png")
    assert list(tmp_path.iterdir()) == []


def test_points_come_from_descriptions(stored: Stored) -> None:
    errors = [EquivarianceError("rot90", 0.25, 0.5), EquivarianceError("rot180", float("nan"), 1.0)]
    description = info.describe(stored(level="paper", equivariance_errors=errors), Swirls())
    assert pictures.LevelErrors.of(description) == pictures.LevelErrors("paper", 0.25, (errors[0],))


@pytest.mark.parametrize("draw", [pictures.contact_sheet, animation.animation])
def test_half_a_picture_is_never_there(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., None]
) -> None:
    field = stored()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(MachineError, match="cannot be written"):
        draw(field, tmp_path / "new" / "picture")
    assert list((tmp_path / "new").iterdir()) == []
