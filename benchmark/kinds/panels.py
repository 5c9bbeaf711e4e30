"""Pictures of roll-outs as planes of numbers, by the kind of their states; without torch, since boards draw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
Planes = tuple[Frames, Frames, Frames]
"""Truth, prediction and error of each step, (S, X, Y), 0 or more."""
PIXELS, RADIUS = 144, 5.5
"""Side of a picture of particles, and radius of a particle in it."""


@dataclass(frozen=True)
class Panels:
    """`planes` of truth and prediction (S, ...), of which a state has `axes` axes; `caption` says what they show."""

    axes: int
    planes: Callable[[Frames, Frames], Planes]
    caption: str


def speed(field_SCHW: Frames) -> Frames:
    """|u|: (S, C, H, W) -> (S, H, W)."""
    return np.linalg.norm(field_SCHW, axis=1).astype(np.float32)


def _of_fields(truth: Frames, prediction: Frames) -> Planes:
    return speed(truth), speed(prediction), speed(prediction - truth)


def _of_particles(truth: Frames, prediction: Frames) -> Planes:
    reach = 1.2 * float(np.abs(truth[..., :2]).max()) or 1.0
    error = np.linalg.norm(prediction - truth, axis=-1)
    speeds = (np.linalg.norm(states[..., 3:], axis=-1) for states in (truth, prediction))
    seen, forecast = (_discs(states, values, reach) for states, values in zip((truth, prediction), speeds, strict=True))
    return seen, forecast, _discs(prediction, error, reach)


def _discs(states_SN6: Frames, values_SN: Frames, reach: float) -> Frames:
    """Discs with these values, and soft edges, at the particles in the x-y plane; the largest value is in front."""
    places = (np.nan_to_num(states_SN6[..., :2]) / reach + 1) * (PIXELS / 2)
    x, y = np.meshgrid(*2 * [np.arange(PIXELS) + 0.5], indexing="ij")
    distance = np.hypot(x - places[..., 0, None, None], y - places[..., 1, None, None])
    return (values_SN[..., None, None] * np.clip(RADIUS + 0.5 - distance, 0, 1)).max(1).astype(np.float32)


PANELS: Mapping[str, Panels] = {
    "field": Panels(3, _of_fields, "Speed |u| and error |u - u truth| in field units"),
    "particles": Panels(
        2, _of_particles, "Particles in the x-y plane, coloured by speed |v|, and by their error in x and v"
    ),
}
"""Kind -> its panels."""
