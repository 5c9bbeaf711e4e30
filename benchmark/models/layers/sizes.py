"""Types of sizes that several Configs share."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _odd(kernel_size: int) -> int:
    if kernel_size % 2 == 0:
        raise ValueError(f"must be odd, so that the kernel has a centre, not {kernel_size}")
    return kernel_size


KernelSize = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""Odd: a kernel padded by half of its size keeps the grid."""
