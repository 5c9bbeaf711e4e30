"""Projection of a network's convolutions to equivariant ones, for groups that permute the cells of a grid.

A motion g acts on a filter T as (g T)(p) = rho_out(g) T(g^-1 p) rho_in(g)^-1. T is equivariant if and only if every
g T = T. P(T), the mean of g T over the group (the Reynolds operator), is the orthogonal projection to such filters. It
is exact: permutations, signs and a mean.

A plain network does not define the representation of its channels, so it is chosen here. A velocity is a vector. Hidden
channels, in groups of four, belong to the directions +x, +y, -x, -y, which a motion permutes: the regular
representation of C4, as in `group_rotation` and `steerable`. If their number is no multiple of four, the remaining one
to three channels are invariant.

Letters: O, I channels out and in; K kernel size.
"""

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
"""Signs of the directions +x, +y, -x, -y along their axis, x or y, which is the direction modulo 2."""


@dataclass(frozen=True)
class Motion:
    """`images[h]` is the image of the direction h; `cells` moves the last two axes, x and y, of a filter."""

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
"""Reflection that changes the sign of x and of the x component."""
MIRROR_Y: Group = (TURNS[0], Motion((0, 3, 2, 1), partial(torch.flip, dims=(-1,))))


def represent(channels: Channels, motion: Motion, tensor: Tensor, axis: int) -> Tensor:
    """Apply rho(g) to the channels along `axis`; on the input channels this is T rho(g)^-1, since rho is orthogonal."""
    if channels == "vector":
        components: list[Any] = [None, None]
        for component, part in enumerate(tensor.unflatten(axis, (-1, 2)).unbind(axis + 1)):
            image = motion.images[component]
            components[image % 2] = SIGNS[image] * part
        return torch.stack(components, axis + 1).flatten(axis, axis + 1)
    fields = tensor.shape[axis] // DIRECTIONS
    if fields == 0:
        return tensor
    regular, invariant = tensor.split([fields * DIRECTIONS, tensor.shape[axis] - fields * DIRECTIONS], axis)
    parts = regular.unflatten(axis, (fields, DIRECTIONS)).unbind(axis + 1)
    moved = torch.stack([parts[motion.images.index(h)] for h in range(DIRECTIONS)], axis + 1)
    return torch.cat((moved.flatten(axis, axis + 1), invariant), axis)


@dataclass(frozen=True)
class PlainLayer:
    """Convolution with the representations of its channels; its affine map T is the filter and the bias, if any."""

    convolution: nn.Conv2d | nn.ConvTranspose2d
    channels_in: Channels
    channels_out: Channels

    def parts(self) -> list[Tensor]:
        """The filter (O, I, K, K), and the bias (O,) if there is one."""
        weight, bias = self.convolution.weight, self.convolution.bias
        filters = weight.transpose(0, 1) if isinstance(self.convolution, nn.ConvTranspose2d) else weight
        return [filters] if bias is None else [filters, bias]

    def projection(self, group: Group) -> list[Tensor]:
        """P(T), in the order of `parts`."""
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
    """Convolutions of `network` in their order; the first reads velocities and the last writes one."""
    convolutions = [module for module in network.modules() if _is_plain(module)]
    last = len(convolutions) - 1
    return tuple(
        PlainLayer(module, "directions" if index else "vector", "directions" if index < last else "vector")
        for index, module in enumerate(convolutions)
    )


def not_projected(network: nn.Module, task: Task) -> str | None:
    """Reason why the layers of `network` cannot be projected, or None."""
    convolutions = [layer.convolution for layer in plain_layers(network)]
    known = {id(parameter) for module in convolutions for parameter in module.parameters()}
    for name, parameter in network.named_parameters():
        if id(parameter) not in known:
            owner, parametrized, _ = name.partition(".parametrizations.")
            kind = type(network.get_submodule(owner if parametrized else name.rpartition(".")[0]))
            return f"{kind.__name__.removeprefix('Parametrized')} is not a plain convolution"
    if not convolutions:
        return "there is no convolution"
    first, last = convolutions[0], convolutions[-1]
    if first.in_channels != task.input_frames * task.channels or last.out_channels != task.channels:
        return "its first and last convolution do not read and write velocities"
    widths = [(before.out_channels, after.in_channels) for before, after in pairwise(convolutions)]
    if any(before != after for before, after in widths) and any(
        width % DIRECTIONS for pair in widths for width in pair
    ):
        return f"it concatenates features, and its channels do not come in multiples of {DIRECTIONS}"
    return None


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.ConvTranspose2d]:
    """Whether `module` computes torch's own convolution, whatever its weight is expanded from."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return isinstance(module, kinds) and module.groups == 1 and type(module).forward in [kind.forward for kind in kinds]


class ProjectionWrapper(Wrapper):
    """Wrapper of a network of plain convolutions, `self.layers`."""

    needs_velocity = True

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """Also the reason why the layers of the network cannot be projected."""
        return super().refusal(config, task) or _refusal(json.dumps(config.network.model_dump(mode="json")), task)

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.layers = plain_layers(self.network)


@cache
def _refusal(network: str, task: Task) -> str | None:
    """Build the network, whose layers decide; `network` is JSON, so that the answer can be cached."""
    choice = ModelChoice.model_validate_json(network)
    baseline, settings = model_registry.configured(choice)
    with torch.random.fork_rng(devices=[]):
        reason = not_projected(baseline(settings, task), task)
    return None if reason is None else f"cannot project the layers of {choice.name}: {reason}"
