"""float32 that is float32: whatever trades digits for speed is off while a pass runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_PRODUCTS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""Parts of `torch.backends` that choose a precision each, from torch 2.9 on."""
_OLDER = ("cuda.matmul", "cudnn")
"""Those with a switch for TensorFloat-32 before."""


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """TensorFloat-32, bfloat16 inside of float32 products, and automatic mixed precision are off; kernels repeat.

    Ten bits of mantissa, or eight, turn the signs of gradients. What the process had set is set again afterwards.
    """
    with ExitStack() as restored, torch.autocast(device.type, enabled=False):
        for backend in filter(None, map(_backend, _PRODUCTS)):
            if getattr(backend, "fp32_precision", None) in ("tf32", "bf16"):
                _set(restored, backend, "fp32_precision", "ieee")
        for backend in map(_backend, _OLDER):
            if getattr(backend, "fp32_precision", None) is None and backend.allow_tf32:
                _set(restored, backend, "allow_tf32", False)
        if device.type == "cuda":
            _set(restored, torch.backends.cudnn, "deterministic", True)
            _set(restored, torch.backends.cudnn, "benchmark", False)
        yield


def _backend(path: str) -> Any:
    where: Any = torch.backends
    for name in path.split("."):
        where = getattr(where, name, None)
    return where


def _set(restored: ExitStack, where: Any, name: str, value: object) -> None:
    restored.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)
