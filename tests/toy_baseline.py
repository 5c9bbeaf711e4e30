"""A toy baseline, strict and relaxed, as the text of a plug-in."""

TOY = '''
import random
import torch
from torch import nn
from benchmark.models.baseline import Baseline, Choice
from benchmark.cell import Frozen


class Toy(Baseline):
    """One convolution."""

    class Config(Frozen):
        kernel_size: int = 3
        penalty: float = 0.0

    family, symmetries, source = "cnn", ("translation",), "test"
    search_space = {"kernel_size": Choice((3, 5))}

    def __init__(self, config, task):
        super().__init__(config, task)
        self.config = config
        size, mode = config.kernel_size, task.padding_mode
        seen = task.input_frames * task.channels
        self.mix = nn.Conv2d(seen, task.channels, size, padding=size // 2, padding_mode=mode)
        #init

    def forward(self, x):
        y = self.mix(x.flatten(1, 2))
        return y
'''
RELAXED = (
    TOY.replace('"cnn"', '"relaxed"')
    .replace("#init", "self.w = nn.Parameter(torch.zeros(task.height, task.width))")
    .replace("return y", "return y * (1 + self.w)")
    + """
    def deviations(self):
        return [self.w]

    def penalty(self):
        return self.config.penalty * self.w.diff(dim=0).abs().mean()
"""
)
"""Baseline with a trained factor 1 + w for each pixel, w = 0 at the start."""
