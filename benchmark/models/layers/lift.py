"""Lift expansion: a free encoder reads the whole field, and what it finds joins the features of another network.

Source: Wang, Walters, Zhu, Platt 2021 (arXiv 2110.15443). The encoder's output e(x) is read as a function on the group,
so that the network behind it is equivariant in both; whether e(x) moves with x is left to training.
"""

from __future__ import annotations

import math

from torch import nn

from benchmark.models.baseline import Task


def lifted_features(hidden: int) -> int:
    """E: a quarter as many as join the other `hidden` features."""
    return math.ceil(hidden / 4)


def field_encoder(task: Task, grid: int, hidden: int, numbers: int) -> nn.Sequential:
    """(B, T C, H, W) -> (B, `numbers`), by a perceptron of three layers, `hidden` wide.

    It reads the field averaged over `grid`^2 tiles, therefore its weights fit any grid, and it still knows where
    things are.
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
