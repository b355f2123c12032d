"""Deep copies of networks, in another dtype, in less than half the time that `copy.deepcopy` takes.

A module's dictionary holds some twenty numbers, flags and empty tables of hooks; `copy.deepcopy` asks a series of
questions of each, so that a copy of a network of a hundred layers takes as long as a batch through its stem. Here what
cannot change is handed on and empty tables are made anew. Whatever else there is goes to `copy.deepcopy` with the same
memo, so the copy is that one's: shared parameters stay shared, lists of modules hold the copies, and classes that copy
themselves do so. In one thing it is not: a tensor and a view of it that are both held do not share memory.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

_CONSTANTS = frozenset(
    {int, float, bool, complex, str, bytes, NoneType, type, FunctionType, BuiltinFunctionType, torch.dtype, torch.Size}
    | {torch.device, torch.memory_format}
)


def clone(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy without gradients, its floating point parameters and buffers of ``dtype``.

    Raises what `copy.deepcopy` does, RuntimeError for one, if the network holds a tensor that was computed.
    """
    cloner = _Cloner(dtype)
    twin: nn.Module = cloner.twin(network)
    # What went to `copy.deepcopy` has come in the dtype that it had.
    return twin.to(dtype) if cloner.left_some else twin


_NEW = copyreg.__newobj__  # type: ignore[attr-defined]  # what an object without arguments is made by


class _Cloner:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.left_some = dtype, False
        self._memo: dict[int, Any] = {}

    def twin(self, value: Any) -> Any:
        kind = type(value)
        if kind in _CONSTANTS:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if kind is dict or kind is OrderedDict:
            return self._table(value)
        if (kind is tuple or kind is set) and all(type(part) in _CONSTANTS for part in value):
            return value if kind is tuple else value.copy()
        if kind is nn.Parameter or kind is Tensor:
            return self._tensor(value)
        if isinstance(value, nn.Module) and getattr(kind, "__deepcopy__", None) is None:
            reduced: Any = value.__reduce_ex__(4)
            maker, arguments, state = reduced[:3]
            if maker is _NEW and arguments == (kind,) and type(state) is dict and not any(reduced[3:]):
                self._memo[id(value)] = module = maker(kind)
                module.__setstate__(self._table(state))
                return module
        self.left_some = True
        return copy.deepcopy(value, self._memo)

    def _table(self, table: dict[Any, Any]) -> dict[Any, Any]:
        result: dict[Any, Any] = type(table)()
        self._memo[id(table)] = result
        for key, value in table.items():
            result[key] = value if type(value) in _CONSTANTS else self.twin(value)
        return result

    def _tensor(self, tensor: Tensor) -> Tensor:
        own = type(tensor) is nn.Parameter
        whole = tensor._base is None and tensor.untyped_storage().nbytes() == tensor.nbytes
        if not (whole and tensor.is_leaf and (own or not tensor.requires_grad) and tensor.layout is torch.strided):
            # Views of one tensor are views of its copy.
            self.left_some = True
            return copy.deepcopy(tensor, self._memo)
        result = tensor.detach().to(self.dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        if own:
            result = nn.Parameter(result, tensor.requires_grad)
        self._memo[id(tensor)] = result
        return result
