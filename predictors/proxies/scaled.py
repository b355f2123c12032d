"""Synaptic flow in numbers that cannot overflow: a float64 tensor times a power of two that travels with it.

Flow grows by a factor per layer and overflows float64 in networks of some hundred layers. So each tensor of the pass
is a `Scaled`: mantissas of order 1 and one exponent, brought back to order 1 after every layer. Powers of two are
exact, hence the value is the one that plain arithmetic gives wherever that does not overflow. Each operation of a
network needs a rule; one that has none is refused:

- *layers* (convolutions, linear): applied; a bias is brought to the exponent of the input;
- *activations* that tend to the identity for large inputs (ReLU and its leaky kin, h-swish, SiLU, GELU …), ReLU6,
  dropout and all normalisations: the identity. On the positive numbers of this pass ReLU is the identity anyway;
- *gates* (sigmoid, hard sigmoid), as in squeeze-and-excite: 1, their limit, so nothing flows through a gate's layers;
- *sums and concatenations*: brought to the largest exponent; products with constants and parameters: applied;
  products of two activations: refused, since doubling a layer would no longer double the flow;
- *pooling, padding with zeros, changes of shape*: applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from predictors.proxies.products import unique_weights
from predictors.proxies.proxy import NotDefined

_LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"})
_ACTIVATIONS = {"relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}
_NORMS = {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"}
_IDENTITY = frozenset(_ACTIVATIONS | _DROPOUTS | _NORMS | {"clone", "contiguous"})
_GATES = frozenset({"sigmoid", "hardsigmoid"})
_POOLS = {
    f"{kind}{d}d" for kind in ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool") for d in (1, 2, 3)
}
_VIEWS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "narrow"}
_MOVES = {"permute", "transpose", "movedim", "getitem", "chunk", "split", "pixel_shuffle"}
_SHAPES = frozenset(_POOLS | _VIEWS | _MOVES | {"mean", "sum", "amax"})
_SUMS = frozenset({"add", "iadd", "radd"})
_PRODUCTS = frozenset({"mul", "imul", "rmul", "div", "truediv", "idiv", "itruediv"})
_JOINS = frozenset({"cat", "concat", "stack"})
_BLANKS = frozenset({"zeros_like", "new_zeros"})


class Scaled(torch.Tensor):
    """Mantissas; the value is the mantissa times 2^``exponent``."""

    exponent: int

    @classmethod
    def of(cls, mantissa: Tensor, exponent: int) -> Scaled:
        """Wraps plain mantissas; gradients flow through."""
        result = mantissa.as_subclass(cls)
        result.exponent = exponent
        return result

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Applies the rule of the operation; `NotDefined` where there is none."""
        stated = func.__name__
        name, named = stated.strip("_"), dict(kwargs or {})
        in_place = stated.endswith("_") and not stated.startswith("__")
        if name in _IDENTITY or (name == "hardtanh" and (named["min_val"], named["max_val"]) == (0.0, 6.0)):
            return args[0]
        if in_place:
            raise NotDefined(f"the operation {stated} works in place, which the flow has no rule for")
        if name in _LAYERS:
            return _layer(func, args, named)
        if name in _GATES:
            return torch.ones_like(_plain(args[0]))
        if name in _SHAPES or (name == "pad" and _pads_zeros(args, named)):
            return _wrap(func(*map(_plain, args), **named), args[0].exponent)
        if name in _SUMS and not named:
            exponent = max(part.exponent for part in args if isinstance(part, Scaled))
            return _wrap(func(*(_at(part, exponent) for part in args)), exponent)
        if name in _PRODUCTS and not named and isinstance(args[0], Scaled) and not isinstance(args[1], Scaled):
            return _wrap(func(_plain(args[0]), args[1]), args[0].exponent)
        if name in {"mul", "imul", "rmul"} and not named and not isinstance(args[0], Scaled):
            return _wrap(func(args[0], _plain(args[1])), args[1].exponent)
        if name in _JOINS:
            exponent = max(part.exponent for part in args[0] if isinstance(part, Scaled))
            return _wrap(func([_at(part, exponent) for part in args[0]], *args[1:], **named), exponent)
        result = func(*map(_plain, args), **named)
        if name in _BLANKS or not _holds_tensor(result):
            return result
        raise NotDefined(f"the flow has no rule for the operation {stated}")


def flow(network: nn.Module, ones: Tensor) -> tuple[float, int]:
    """Σ over `Conv2d` and `Linear` weights of |θ · ∂R/∂θ|, R the sum of the outputs, as (mantissa, exponent).

    ``network`` (float64, evaluation mode) is changed: its parameters become absolute. ``ones`` is its input. Raises
    `NotDefined` for operations without a rule, for parametrised weights, and if the sum is 0.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False).abs_()
    weights = list(unique_weights(network).values())
    with torch.enable_grad():
        output = network(Scaled.of(ones, 0))
        if not isinstance(output, Tensor):
            raise NotDefined(f"the output must be a tensor, is {type(output).__name__}")
        total = _plain(output).sum()
    exponent = output.exponent if isinstance(output, Scaled) else 0
    if not total.requires_grad:
        raise NotDefined("nothing flows: the output does not depend on the weights")
    found = torch.autograd.grad(total, weights, allow_unused=True)
    score = sum(
        float((weight.detach() * gradient).abs().sum())
        for weight, gradient in zip(weights, found, strict=True)
        if gradient is not None
    )
    if score == 0.0:
        raise NotDefined("nothing flows: no path with weights leads from the input to the output")
    return score, exponent


def _layer(func: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> Scaled:
    inputs, weight, *rest = args
    if not isinstance(inputs, Scaled) or isinstance(weight, Scaled):
        raise NotDefined(f"the flow has no rule for {func.__name__} with an activation for its weight")
    if rest and rest[0] is not None:
        rest[0] = _at(rest[0], inputs.exponent)
    elif named.get("bias") is not None:
        named["bias"] = _at(named["bias"], inputs.exponent)
    output = func(_plain(inputs), weight, *rest, **named)
    largest = float(output.detach().max())
    if not math.isfinite(largest):
        raise NotDefined(f"a layer's output is {largest}")
    shift = math.frexp(largest)[1]
    return Scaled.of(output * math.ldexp(1.0, -shift), inputs.exponent + shift)


def _at(part: Any, exponent: int) -> Any:
    """The mantissas of ``part`` (a tensor of either kind, or a number) at another exponent."""
    own = part.exponent if isinstance(part, Scaled) else 0
    # Below 2^-1074 there is nothing left of it beside what it is added to.
    factor = math.ldexp(1.0, max(own - exponent, -1100)) if own - exponent <= 1000 else math.inf
    return _plain(part) * factor


def _plain(part: Any) -> Any:
    return part.as_subclass(torch.Tensor) if isinstance(part, Scaled) else part


def _wrap(result: Any, exponent: int) -> Any:
    if isinstance(result, Tensor):
        return Scaled.of(result, exponent)
    return type(result)(Scaled.of(part, exponent) for part in result)


def _holds_tensor(result: Any) -> bool:
    if isinstance(result, tuple | list):
        return any(_holds_tensor(part) for part in result)
    return isinstance(result, Tensor)


def _pads_zeros(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    mode = args[2] if len(args) > 2 else named.get("mode", "constant")
    value = args[3] if len(args) > 3 else named.get("value")
    return mode != "constant" or not value
