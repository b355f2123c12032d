"""Which calls of a forward pass are rectifiers, and what they see.

The papers count modules: those whose class has ReLU in its name (NASWOT), or `nn.ReLU` fed four dimensions (TE-NAS,
SWAP). Here functions count, called by a module or not, so a network scores the same however it is written:

- ReLU, also as ``clamp(min=0)`` or a threshold at 0, and ReLU6: as published;
- leaky, parametric and randomised ReLU: as published, the slope left of zero changes no sign;
- GELU, SiLU, h-swish, Mish, ELU, SELU, CELU and softplus: an extension. They tend to a straight line on either side
  of zero and are coded by the sign of their input like ReLU, which they stand in for.

Gates and squashing functions (sigmoid, hard sigmoid, tanh, softmax) are none, nor is an activation written out in
arithmetic, or one inside of a compiled or scripted module or of `nn.MultiheadAttention`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_KINKED = {"relu", "relu6", "leaky_relu", "prelu", "rrelu"}
_SMOOTH = {"gelu", "silu", "hardswish", "mish", "elu", "selu", "celu", "softplus"}
_ALWAYS = frozenset(_KINKED | _SMOOTH)
_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})


class Watch(TorchFunctionMode):
    """Hands on what rectifiers and layers see, before they run: a rectifier may work in place.

    ``rectifier`` gets a rectifier's input, ``layer`` that of a convolution or linear layer.
    """

    def __init__(self, rectifier: Callable[[Tensor], None], layer: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._rectifier, self._layer = rectifier, layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The call itself, unchanged."""
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "").strip("_")
        given = args[0] if args else named.get("input")
        if isinstance(given, Tensor):
            if rectifies(name, args, named):
                self._rectifier(given.detach())
            elif name in _LAYERS:
                self._layer(given.detach())
        return func(*args, **named)


def rectifies(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether the function of this name, without underscores around it, is a rectifier when called like this."""
    if name in _ALWAYS:
        return True
    if name == "hardtanh":
        return _given(args, named, 1, "min_val", -1.0) == 0
    if name == "threshold":
        return _given(args, named, 1, "threshold") == 0 and _given(args, named, 2, "value") == 0
    if name in {"clamp", "clip", "clamp_min"}:
        least = _given(args, named, 1, "min")
        return isinstance(least, int | float) and least == 0
    return False


def _given(args: Sequence[Any], named: Mapping[str, Any], place: int, name: str, default: object = None) -> object:
    return args[place] if len(args) > place else named.get(name, default)
