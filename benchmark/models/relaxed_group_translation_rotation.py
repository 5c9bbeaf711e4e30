"""Relaxed group convolution for translation and rotation: each pixel and turn is read with weights of its own."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, require_grid
from benchmark.models.layers.group_rotation import ORDER, Fields, RotationGroupConv2d, group_network
from benchmark.models.layers.relaxation import RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


class RelaxedGroupConv2d(RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h in Z^2 x C4, w: {1..L} x C4 x H x W -> R.

    f w_l is the function that bank l reads, therefore this is one strict group convolution of the L I functions f w_l.
    A velocity is read as the function v(x) . e_h, which is written out before it is weighted: w has values of its own
    at opposite turns, so that 4 L products of v and w have to be read whatever their order.

    w starts constant at L^-1/2, and the layer as the group convolution with sum_l w_l psi_l.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        fields_in: Fields,
        fields_out: Fields,
        kernel_size: int,
        banks: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        field_in, many_in = fields_in
        self.lifts = field_in == "vector"
        self.periodic = padding_mode == "circular"
        weighted: Fields = "regular", banks * many_in
        self.convolution = RotationGroupConv2d(weighted, fields_out, kernel_size, 1, False, padding_mode)
        with torch.no_grad():
            self.convolution.psi.mul_(banks**0.5)  # He's deviation counts I functions and not L I
        self.w = nn.Parameter(torch.full((banks, ORDER, *grid), banks**-0.5))

    @property
    def psi(self) -> Tensor:
        """The filter banks (L, O, I, N, K, K)."""
        return self.convolution.psi[0].unflatten(1, (len(self.w), -1)).movedim(1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I b, H, W) -> (B, O a, H, W). ValueError: another grid than that of w."""
        require_grid(x, self.w.shape[2:], "w has numbers for each pixel of")
        f = x.unflatten(1, (-1, 2 if self.lifts else ORDER))
        if self.lifts:
            f = torch.cat((f, -f), 2)  # along e_0 and e_1, and along their opposites e_2 and e_3
        return self.convolution((f[:, None] * self.w[:, None]).flatten(1, 3))

    def roughness(self) -> Tensor:
        """The mean of |w_l(h) - w_l(h')| over neighbouring turns, and over neighbouring pixels along both axes.

        The last turn and the first are neighbours, and so are the last pixel and the first in a periodic box. Each of
        the three axes counts a third.
        """
        return (roughness(self.w, (1,), periodic=True) + 2 * roughness(self.w, (2, 3), self.periodic)) / 3


class RelaxedGroupTranslationRotation(RelaxedBaseline):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, by relaxed group convolutions.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h): L filter banks psi_l, and one number w_l(h) for each bank,
    pixel and turn, shared by all functions. It starts equivariant under both translation and rotation, and leaves them
    as far as the data pull and the penalty allows: alpha x the sum over layers of mean |w_l(h) - w_l(h')| over
    neighbours in the group (Wang, Walters, Yu 2022, section 4.1, with translation and rotation as the one group).

    Each layer is one convolution of L x `hidden` functions: L times the arithmetic of the strict network, which the
    definition asks for, and L times its stored activations. Different from the published code for either group: w
    belongs to the pixel and the turn that are read, as in the paper's sum over h, and not to those that are written.

    w makes the weights belong to one grid, and to one way to lay a wide one.
    """

    class Config(Frozen):
        """`hidden` counts functions on the group, each of 4 channels; `banks` is L; `penalty` is alpha.

        With 157 functions and 2 banks it has 5.6 M parameters on 64 x 64.
        """

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        banks: PositiveInt = 2
        kernel_size: KernelSize = 3
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("translation", "rotation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        grid = task.height, task.width

        def layer(before: Fields, after: Fields) -> RelaxedGroupConv2d:
            return RelaxedGroupConv2d(grid, before, after, config.kernel_size, config.banks, task.padding_mode)

        self.network = group_network(task.input_frames, config.hidden, config.layers, layer)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W). ValueError: another grid than the task's."""
        return self.network(x_BTCHW.flatten(1, 2))
