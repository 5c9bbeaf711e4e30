"""Lift expansion: the output of a free encoder of the whole field joins the features of an equivariant network.

Source: Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443). The encoder's output e(x) is a function on the group, so the
layers after it are equivariant in both inputs. Whether e(x) transforms with x is learnt.
"""

import math

from torch import nn

from benchmark.models.baseline import Task


def lifted_features(hidden: int) -> int:
    """E, the number of encoder features that join `hidden` others: a quarter, rounded up."""
    return math.ceil(hidden / 4)


def field_encoder(task: Task, grid: int, hidden: int, numbers: int) -> nn.Sequential:
    """(B, T C, H, W) -> (B, `numbers`), by a perceptron of three layers, `hidden` wide.

    The input is the field averaged over `grid`^2 tiles, so the weights fit any grid and the encoder still knows
    positions.
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
        nn.Linear(task.input_frames * task.channels * grid**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, numbers),
    )
