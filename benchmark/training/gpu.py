"""Errors of GPUs, which come as a RuntimeError with a message of a library, and whether a GPU still works."""

import re
from typing import Final

import torch

_OUT_OF_MEMORY: Final = re.compile(
    r"(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED|CUDA.*out of memory", re.I | re.S
)
_LIBRARIES: Final = re.compile(
    r"(CUDA|HIP|cuDNN|cuFFT|cuBLAS|cuSOLVER|cuSPARSE) error|(CUBLAS|CUDNN)_STATUS_|CUFFT_", re.I
)


FIELD_SHARE: Final = 0.5
"""Part of a GPU's free memory that a field may take; the rest is for the training, which may not be alone there."""


def has_room(field_bytes: int, free_bytes: int) -> bool:
    """Whether a field is copied to a GPU with `free_bytes`; otherwise it stays on the host, and its batches are."""
    return field_bytes <= FIELD_SHARE * free_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the GPU's memory is used up, in the words of torch, CUDA, its libraries or NCCL."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
    )


def is_gpu_error(error: BaseException) -> bool:
    """Whether `error` comes from a GPU or its libraries, whatever code was running."""
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and bool(_LIBRARIES.search(str(error))))


def works(device: torch.device) -> bool:
    """Whether `device` still computes. After a fault, a GPU refuses each later call of the same process."""
    if device.type == "cpu":
        return True
    try:
        return float(torch.zeros(1, device=device) + 1) == 1.0
    except torch.OutOfMemoryError:
        return True
    except (RuntimeError, AssertionError):  # the latter from a torch without CUDA
        return False
