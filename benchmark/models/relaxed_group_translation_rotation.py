"""Relaxed group convolution for translation and rotation, with weights for each pixel and turn that is read."""

from typing import Annotated, ClassVar

import pydantic
import torch
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, require_grid
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import ORDER, RotationGroupConv2d
from benchmark.models.layers.relaxation import PENALTIES, FilterBanks, RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


class RelaxedGroupConv2d(RelaxedLayer):
    """[f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), g and h in Z^2 x C4, w: {1..L} x C4 x H x W -> R.

    Bank l reads the function f w_l, so this is one strict group convolution of the L I functions f w_l. A velocity is
    lifted to the function v(x) . e_h before it is weighted, because w differs between opposite turns.

    w = 1 / L + d, with d = 0 at the start, where the layer is the group convolution with the mean of the psi_l.
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
            self.convolution.coefficients.mul_(banks)  # He's deviation counts I functions and not L I
        self.banks = FilterBanks(banks, (ORDER, *grid), True)

    @property
    def w(self) -> Tensor:
        """(L, N, H, W): weight of each bank at each turn and pixel that is read."""
        return self.banks.weights()

    def forward(self, x: Tensor) -> Tensor:
        """(B, I b, H, W) -> (B, O a, H, W). ValueError if x is not on the grid of w."""
        w = self.w
        require_grid(x, w.shape[2:], "w has numbers for each pixel of")
        f = x.unflatten(1, (-1, 2 if self.lifts else ORDER))
        if self.lifts:
            f = torch.cat((f, -f), 2)  # along e_0 and e_1, and along their opposites e_2 and e_3
        return self.convolution((f[:, None] * w[:, None]).flatten(1, 3))

    def roughness(self) -> Tensor:
        """Mean of |w_l(h) - w_l(h')| over neighbours along the cyclic turns, x and y, a third each."""
        w = self.w
        return (roughness(w, (1,), periodic=True) + 2 * roughness(w, (2, 3), self.periodic)) / 3

    def size(self) -> float:
        """Mean |w| without the deviation."""
        return self.banks.constant


class RelaxedGroupTranslationRotation(RelaxedBaseline):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, by relaxed group convolutions.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h): L filter banks psi_l, and one number w_l(h) for each bank,
    pixel and turn, shared by all functions. It starts equivariant under both translation and rotation. The penalty on
    leaving them is alpha x the sum over layers of mean |w_l(h) - w_l(h')| over neighbours in the group, relative to the
    mean |w| (Wang, Walters, Yu 2022, section 4.1, with translation and rotation as one group).

    Each layer is one convolution of L x `hidden` functions: L times the arithmetic of the strict network and L times
    its stored activations. Different from the published code for either group: w belongs to the pixel and the turn that
    are read, as in the paper's sum over h, and not to those that are written. The weights belong to one grid, because
    of w.
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
    version = 3
    symmetries = ("translation", "rotation")
    needs_velocity = True
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        grid = task.height, task.width

        def layer(before: Fields, after: Fields) -> RelaxedGroupConv2d:
            return RelaxedGroupConv2d(grid, before, after, config.kernel_size, config.banks, task.padding_mode)

        self.network = field_network(task, config.hidden, config.layers, layer)
