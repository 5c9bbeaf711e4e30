"""Pictures of roll-outs as planes of numbers, by the kind of their states; without torch, since boards draw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import VELOCITY, Components, main_channels

Frames = NDArray[np.float32]
Planes = tuple[Frames, Frames, Frames]
"""Truth, prediction and error of each step, (S, X, Y), 0 or more."""
PIXELS, RADIUS = 144, 5.5
"""Side of a picture of particles, and radius of a particle in it."""


@dataclass(frozen=True)
class Panels:
    """`planes` of truth and prediction (S, ...), of which a state has `axes` axes, and the components of a field.

    `caption` says what the planes show, of these components.
    """

    axes: int
    planes: Callable[[Frames, Frames, Components], Planes]
    caption: Callable[[Components], str]


def size(field_SCHW: Frames, components: Components = VELOCITY) -> Frames:
    """|u| of the component that pictures show: (S, C, H, W) -> (S, H, W)."""
    return np.linalg.norm(field_SCHW[:, main_channels(components)], axis=1).astype(np.float32)


def _of_fields(truth: Frames, prediction: Frames, components: Components) -> Planes:
    return tuple(size(field, components) for field in (truth, prediction, prediction - truth))  # type: ignore[return-value]


def _caption_of_fields(components: Components) -> str:
    quantity = "Speed |u|" if "vector" in components else "Size |u| of the first scalar u"
    return f"{quantity} and error |u - u truth| in field units"


def _of_particles(truth: Frames, prediction: Frames, components: Components) -> Planes:
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
    "field": Panels(3, _of_fields, _caption_of_fields),
    "particles": Panels(
        2, _of_particles, lambda _: "Particles in the x-y plane, coloured by speed |v|, and by their error in x and v"
    ),
}
"""Kind -> its panels."""
