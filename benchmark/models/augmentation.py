"""Group augmentation: the network learns the symmetry from transformed windows."""

from typing import Any

from torch import Tensor

from benchmark.models import model_registry
from benchmark.models.layers.group_draws import group_draws
from benchmark.models.layers.wrapper import DrawnGroup, Wrapper, drawn_group
from benchmark.models.task import AnyTask


class Augmentation(Wrapper):
    """Trains `network` on (g x, g y) in place of (x, y), with a random g of the group for each window.

    On fields g is the identity or one of the elements for which the equivariance error is measured, all equally likely:
    for C4 the quarter turns (on a wide grid the half turn alone, since a batch has one shape), for translation three
    shifts, for scale three enlargements, which lose detail. On particles g is any rotation about the centre, uniform
    over SO(3). The frames of a window and its targets are transformed alike, and forecasts are those of the network.
    The cost is negligible. In a box with walls, shifts are n/a: the cells that they bring in are unknown.
    """

    class Config(Wrapper.Config):
        """`network` is trained on windows transformed by `group`: C4 by default, SO3 for a network on particles."""

        group: DrawnGroup = drawn_group()

    kinds = ("field", "particles")
    family = "cnn"
    symmetries = ()
    source = "Chen, Dobriban, Lee 2020, group augmentation (arXiv 1907.10905)"

    @classmethod
    def refusal(cls, config: Any, task: Any) -> str | None:
        """Also refuses shifts in a box with walls, and an augmentation of an augmentation."""
        if model_registry.model(config.network.name) is cls:
            return "an augmentation around another one would draw the same numbers"
        reason = super().refusal(config, task)
        if reason is None and config.group == "translation" and not task.periodic:
            return "a window that is shifted in a box with walls has cells without a value"
        return reason

    def __init__(self, config: Config, task: AnyTask) -> None:
        super().__init__(config, task)
        self.group = group_draws(config.group, task, identity=True)

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """(g x, g y), g drawn for each window."""
        x_BTCHW, y_BSCHW = super().augment(x_BTCHW, y_BSCHW, draws_B)
        elements = self.group.elements(draws_B)
        return self.group.act(x_BTCHW, elements), self.group.act(y_BSCHW, elements)
