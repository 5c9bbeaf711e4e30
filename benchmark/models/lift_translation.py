"""Lift expansion for translation: a free encoder of the whole field joins a ConvNet."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.layers.convolutions import convolution, convolutional_network
from benchmark.models.layers.fields import field_encoder, lifted_features
from benchmark.models.layers.norm import modules_in_a_layer


def hat_functions(cells: int, nodes: int, periodic: bool, device: torch.device) -> Tensor:
    """Weights (cells, nodes) of linear interpolation from the centres of tiles to the centres of cells.

    Cells beyond the outermost centres take the nearest value. In a periodic box the last tile and the first are
    neighbours.
    """
    place = (torch.arange(cells, device=device) + 0.5) * (nodes / cells) - 0.5
    if not periodic:
        place = place.clamp(0, nodes - 1)
    images = nodes * torch.arange(-1 if periodic else 0, 2 if periodic else 1, device=device)
    distance = place[:, None, None] - images[:, None] - torch.arange(nodes, device=device)
    return (1 - distance.abs()).clamp(min=0).sum(1)


class LiftTranslation(Baseline):
    """y = f_2(f_1(x), e(x)): the ConvNet, cut in two as f_2 o f_1, and a free encoder e.

    A function on the group of translations has a number for each pixel: e(x) in R^{E x H x W}, E = `hidden` / 4, joins
    the input of the middle convolution (Wang, Walters, Zhu, Platt 2021, lift expansion; Wang, Walters, Yu 2022, section
    5, Lift). Whether e(x) moves with x is learnt.

    e reads the field averaged over `encoder_grid`^2 tiles and gives E numbers for each tile, which are interpolated
    linearly to the pixels, so the weights fit any grid (`layers/fields.py`). Different from the published code: there e
    reads each pixel of one grid and gives `hidden` numbers that are the same at all pixels, and batch normalisation
    follows the layers.
    """

    class Config(ConvNet.Config):
        """`hidden` is the number of channels, `encoder_hidden` the width of e, which reads `encoder_grid`^2 tiles."""

        layers: Annotated[int, Field(ge=3)] = 5
        encoder_hidden: PositiveInt = 128
        encoder_grid: PositiveInt = 8

    family = "approximate"
    version = 2
    symmetries = ("translation",)
    source = "Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443); Wang, Walters, Yu 2022, section 5, Lift"
    search_space: ClassVar[SearchSpace] = {
        **ConvNet.search_space,
        "encoder_hidden": Choice((64, 128, 256)),
        "encoder_grid": Choice((4, 8, 16)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, norm=config.norm)
        lifted, middle = lifted_features(config.hidden), modules_in_a_layer(config.norm) * (config.layers // 2)
        network[middle] = convolution(config.hidden + lifted, config.hidden, config.kernel_size, task.padding_mode)
        self.before, self.after = network[:middle], network[middle:]
        self.encoder_grid = config.encoder_grid
        self.encoder = field_encoder(task, config.encoder_grid, config.encoder_hidden, lifted * config.encoder_grid**2)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        x = x_BTCHW.flatten(1, 2)
        return self.after(torch.cat((self.before(x), self.at_pixels(self.encoder(x), x.shape[-2:])), dim=1))

    def at_pixels(self, tiles: Tensor, grid: torch.Size) -> Tensor:
        """Interpolate numbers for tiles, (B, E `encoder_grid`^2), to numbers for pixels, (B, E, H, W)."""
        tiles = tiles.unflatten(1, (-1, self.encoder_grid, self.encoder_grid))
        rows, columns = (
            hat_functions(cells, self.encoder_grid, self.task.periodic, tiles.device).to(tiles.dtype) for cells in grid
        )
        return rows @ tiles @ columns.T
