"""The equivariant part of a network's convolutions, for groups that move the cells of a grid.

A motion g acts on a filter T as (g T)(p) = rho_out(g) T(g^-1 p) rho_in(g)^-1. T is equivariant if and only if every
g T = T, and P(T) = mean over the group of g T (the Reynolds operator) is the orthogonal projection to such filters: it
is exact, being permutations, signs and a mean.

What the channels of a network are is a choice, since a plain network does not say. Here a velocity is a vector, and
hidden channels, four by four, are numbers that belong to the directions +x, +y, -x, -y, which a motion permutes: the
regular representation of C4, as in `group_rotation` and `steerable`. The one to three channels that are left over,
where their number is no multiple of four, are invariant.

Letters: O, I channels out and in; K kernel size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from benchmark.cell import ModelChoice
from benchmark.models import model_registry
from benchmark.models.baseline import Task
from benchmark.models.layers.wrapper import Wrapper

Channels = Literal["vector", "directions"]
DIRECTIONS = 4
SIGNS = (1, 1, -1, -1)
"""Of +x, +y, -x, -y along the axis, x or y, that they belong to: the direction modulo 2."""


@dataclass(frozen=True)
class Motion:
    """`images[h]` is the direction that h goes to; `cells` moves the last two axes, x and y, of a filter."""

    images: tuple[int, ...]
    cells: Callable[[Tensor], Tensor]


Group = tuple[Motion, ...]
TURNS: Group = tuple(
    Motion(tuple((h + k) % DIRECTIONS for h in range(DIRECTIONS)), partial(torch.rot90, k=k, dims=(-2, -1)))
    for k in range(DIRECTIONS)
)
ROTATIONS: Group = TURNS
HALF_TURN: Group = (TURNS[0], TURNS[2])
MIRROR_X: Group = (TURNS[0], Motion((2, 1, 0, 3), partial(torch.flip, dims=(-2,))))
"""x and the x component change their sign."""
MIRROR_Y: Group = (TURNS[0], Motion((0, 3, 2, 1), partial(torch.flip, dims=(-1,))))


def represent(channels: Channels, motion: Motion, tensor: Tensor, axis: int) -> Tensor:
    """rho(g) on the channels along `axis`; as rho is orthogonal, on the channels in it is T rho(g)^-1, too."""
    if channels == "vector":
        components: list[Any] = [None, None]
        for component, part in enumerate(tensor.unflatten(axis, (-1, 2)).unbind(axis + 1)):
            image = motion.images[component]
            components[image % 2] = SIGNS[image] * part
        return torch.stack(components, axis + 1).flatten(axis, axis + 1)
    fields = tensor.shape[axis] // DIRECTIONS
    if fields == 0:
        return tensor
    whole, rest = tensor.split([fields * DIRECTIONS, tensor.shape[axis] - fields * DIRECTIONS], axis)
    parts = whole.unflatten(axis, (fields, DIRECTIONS)).unbind(axis + 1)
    moved = torch.stack([parts[motion.images.index(h)] for h in range(DIRECTIONS)], axis + 1)
    return torch.cat((moved.flatten(axis, axis + 1), rest), axis)


@dataclass(frozen=True)
class PlainLayer:
    """A convolution and what its channels are; its affine map T is the filter and, where there is one, the bias."""

    convolution: nn.Conv2d | nn.ConvTranspose2d
    channels_in: Channels
    channels_out: Channels

    def parts(self) -> list[Tensor]:
        """The filter (O, I, K, K), and the bias (O,) if there is one."""
        weight, bias = self.convolution.weight, self.convolution.bias
        filters = weight.transpose(0, 1) if isinstance(self.convolution, nn.ConvTranspose2d) else weight
        return [filters] if bias is None else [filters, bias]

    def projection(self, group: Group) -> list[Tensor]:
        """P(T), in its parts."""
        filters, *biases = self.parts()
        moved = [motion.cells(filters) for motion in group]
        moved = [represent(self.channels_out, motion, one, 0) for motion, one in zip(group, moved, strict=True)]
        moved = [represent(self.channels_in, motion, one, 1) for motion, one in zip(group, moved, strict=True)]
        means = [_mean(moved)]
        return means + [_mean([represent(self.channels_out, motion, bias, 0) for motion in group]) for bias in biases]

    def deviation(self, group: Group) -> Tensor:
        """|T - P(T)|, the Frobenius norm: zero if and only if T is equivariant. Its gradient at zero is zero."""
        return _norm([part - mean for part, mean in zip(self.parts(), self.projection(group), strict=True)])

    def equivariant_norm(self, group: Group) -> Tensor:
        """|P(T)|."""
        return _norm(self.projection(group))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))


def plain_layers(network: nn.Module) -> tuple[PlainLayer, ...]:
    """The convolutions of `network` in their order, the first one reading velocities and the last one writing one."""
    found = [module for module in network.modules() if _is_plain(module)]
    last = len(found) - 1
    return tuple(
        PlainLayer(module, "directions" if index else "vector", "directions" if index < last else "vector")
        for index, module in enumerate(found)
    )


def not_projected(network: nn.Module, task: Task) -> str | None:
    """Why the layers of `network` cannot be projected as above, or None."""
    found = [layer.convolution for layer in plain_layers(network)]
    theirs = {id(parameter) for module in found for parameter in module.parameters()}
    for name, parameter in network.named_parameters():
        if id(parameter) not in theirs:
            owner, parametrized, _ = name.partition(".parametrizations.")
            kind = type(network.get_submodule(owner if parametrized else name.rpartition(".")[0]))
            return f"{kind.__name__.removeprefix('Parametrized')} is not a plain convolution"
    if not found:
        return "there is no convolution"
    if found[0].in_channels != task.input_frames * task.channels or found[-1].out_channels != task.channels:
        return "its first and last convolution do not read and write velocities"
    widths = [(before.out_channels, after.in_channels) for before, after in pairwise(found)]
    if any(before != after for before, after in widths) and any(
        width % DIRECTIONS for pair in widths for width in pair
    ):
        return f"it concatenates features, and its channels do not come in multiples of {DIRECTIONS}"
    return None


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.ConvTranspose2d]:
    """A convolution that computes what torch's does, whatever its weight is made of."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return isinstance(module, kinds) and module.groups == 1 and type(module).forward in [kind.forward for kind in kinds]


class ProjectionWrapper(Wrapper):
    """A wrapper of networks of plain convolutions, `self.layers`; the network's own penalty is kept."""

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """The groups act on the two components of one velocity."""
        return task.lacks_velocity()

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """What the network cannot do, or why its layers cannot be projected."""
        return super().refusal(config, task) or _refusal(json.dumps(config.network.model_dump(mode="json")), task)

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.layers = plain_layers(self.network)


@cache
def _refusal(network: str, task: Task) -> str | None:
    """Builds the network, as only that tells its layers; as text it can be remembered."""
    choice = ModelChoice.model_validate_json(network)
    baseline, settings = model_registry.configured(choice)
    with torch.random.fork_rng(devices=[]):
        reason = not_projected(baseline(settings, task), task)
    return None if reason is None else f"cannot project the layers of {choice.name}: {reason}"
