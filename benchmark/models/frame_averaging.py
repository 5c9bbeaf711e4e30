"""Frame averaging: any network, made equivariant under quarter turns by turning its input."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmark.groups import parts, rotate, to_cell_centers
from benchmark.models.baseline import Choice, SearchSpace, Task
from benchmark.models.layers.wrapper import Wrapper

NO_DIRECTION = 1e-5
"""A flux below this share of its value for a uniform direction of flow counts as zero: it is round-off."""


class FrameAveraging(Wrapper):
    """y = 1/|F(x)| sum over g in F(x) of g f(g^-1 x), with a frame F(g x) = g F(x) in C4; f is `network`.

    `frame: group` is F(x) = C4, with 4 forward passes. `frame: flux` is the one quarter turn that brings the flux
    w = mean |v|^2 v, over the frames and cells of x, within 45 degrees of the x axis: a small frame as in the paper,
    with one pass. w turns as a velocity and is invariant under shifts. Unlike the mean velocity, it does not vanish
    between walls. The sectors are around the axes, so that a flow symmetric about an axis is far from their
    borders. At the borders y is discontinuous, as for any frame of one element (Dym, Lawrence, Siegel 2024, arXiv
    2402.16077).

    If w is zero, as for a fluid at rest or one that is symmetric under a half turn, no single element can be chosen
    equivariantly. The forecast is then persistence, which is equivariant and keeps to one pass.

    On grids that are not square, the turns that bring the window upright (H > W) are a frame already. The network is
    built for upright windows and may have weights for each cell; a `group` then has 2 elements. On a staggered grid the
    lower walls are kept at zero, without which a quarter turn is no permutation.
    """

    inside: Tensor

    class Config(Wrapper.Config):
        """`frame` is the whole group, or the one turn that the flux selects."""

        frame: Literal["group", "flux"] = "flux"

    family = "strict"
    symmetries = ("rotation",)
    source = "Puny et al. 2022 (arXiv 2110.03336)"
    search_space: ClassVar[SearchSpace] = {"frame": Choice(("group", "flux"))}

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """As for any wrapper, on the upright grid; a flux needs a velocity."""
        if config.frame == "flux" and "vector" not in task.components:
            return f"`frame: flux` needs a velocity, {task.dataset} has none: `frame: group` needs none"
        return super().refusal(config, _upright(task))

    def __init__(self, config: Config, task: Task) -> None:
        upright = _upright(task)
        super().__init__(config, upright)
        self.task = task
        self.frame = config.frame
        self.to_upright = 0 if upright == task else -1
        self.turns = (0, 1, 2, 3) if task.height == task.width else (0, 2)
        inside = torch.ones(upright.shape)
        if task.grid == "staggered":
            for part, component in zip(parts(inside, task.components), task.components, strict=True):
                if component == "vector":
                    part[0, 0] = part[1, :, 0] = 0  # a view of `inside`
        self.register_buffer("inside", inside, persistent=False)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        x = self._rotate(x_BTCHW, self.to_upright) * self.inside
        y = self._over_group(x) if self.frame == "group" else self._along_flux(x)
        return self._rotate(y, -self.to_upright)

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """Augmentation of the network, on upright windows."""
        x, y = (self._rotate(field, self.to_upright) for field in (x_BTCHW, y_BSCHW))
        x, y = super().augment(x, y, draws_B)
        return self._rotate(x, -self.to_upright), self._rotate(y, -self.to_upright)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """Regularization of the network, on upright windows."""
        return super().regularization(self._rotate(x_BTCHW, self.to_upright), draws_B)

    def _rotate(self, field: Tensor, turns: int) -> Tensor:
        return rotate(field, turns, self.task.grid, self.task.components)

    def _over_group(self, x: Tensor) -> Tensor:
        turned = torch.cat([self._rotate(x, -turns) for turns in self.turns])
        forecasts = (self.network(turned) * self.inside).chunk(len(self.turns))
        back = [self._rotate(y, turns) for y, turns in zip(forecasts, self.turns, strict=True)]
        return torch.stack(back).mean(0)

    def _along_flux(self, x: Tensor) -> Tensor:
        turns_B, flows_B = self._frame(x)
        y = self.network(self._each(x, -1, turns_B)) * self.inside
        still = torch.zeros_like(x[:, -1]) if self.task.target == "change" else x[:, -1]
        return torch.where(flows_B.view(-1, 1, 1, 1), self._each(y, 1, turns_B), still)

    def _each(self, field: Tensor, sense: int, turns_B: Tensor) -> Tensor:
        """Turn each window by its own number of quarter turns: all turns are computed, and one is selected."""
        result = turned = field
        stride = self.turns[1]
        wanted_B = (sense * turns_B % 4).view(-1, *[1] * (field.ndim - 1))
        for turns in self.turns[1:]:
            turned = self._rotate(turned, stride)
            result = torch.where(wanted_B == turns, turned, result)
        return result

    @torch.no_grad()
    def _frame(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Turn of each window, one of `self.turns`, and whether its flux has a direction: (B,), (B,)."""
        v = parts(x, self.task.components)[self.task.components.index("vector")]
        v = to_cell_centers(v) if self.task.grid == "staggered" else v
        speed = v.square().sum(2, keepdim=True).sqrt()
        flux = (speed.square() * v).mean((1, 3, 4))
        flows = flux.norm(dim=1) > NO_DIRECTION * speed.pow(3).mean((1, 2, 3, 4))
        sector = quarter(flux)
        return (sector if len(self.turns) == 4 else sector // 2 * 2), flows


def quarter(vectors: Tensor) -> Tensor:
    """Sector k of the angle from the x axis, (90 k - 45, 90 k + 45] degrees: (B, 2) -> (B,); 3 for a zero vector.

    Each border belongs to the sector clockwise of it, so a quarter turn adds 1 modulo 4 exactly.
    """
    u, v = vectors.unbind(1)
    a, b = u + v, u - v
    borders: Sequence[Tensor] = ((a > 0) & (b >= 0), (a >= 0) & (b < 0), (a < 0) & (b <= 0))
    sector = torch.full_like(u, 3, dtype=torch.long)
    for k, inside in enumerate(borders):
        sector = sector.masked_fill(inside, k)
    return sector


def _upright(task: Task) -> Task:
    """`task` with H >= W, as the network sees it."""
    return replace(task, height=max(task.height, task.width), width=min(task.height, task.width))
