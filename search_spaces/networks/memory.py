"""Errors that say that memory did not suffice."""

from __future__ import annotations

import torch

_SAID = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "bad_alloc",
)
"""What allocators say that have no error class of their own."""


def ran_out(error: BaseException) -> bool:
    """Whether memory, of the device or of this machine, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
