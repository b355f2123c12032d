"""The Hessian of a minibatch's mean cross-entropy, times its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from predictors.proxies.products import unique_weights
from predictors.proxies.proxy import NotDefined
from predictors.proxies.summed import mean_loss
from predictors.proxies.whole_batch import together
from search_spaces.networks.memory import ran_out

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


class _Twice(TorchFunctionMode):
    """Puts operations that can be differentiated twice for those that torch can differentiate once alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.__name__ == "hardsigmoid":
            return F.relu6(args[0] + 3.0) / 6.0
        return func(*args, **(kwargs or {}))


def curvature(signals: Signals) -> float:
    """See `Signals.curvature`.

    The gradient that the Hessian is multiplied by is the one that is differentiated: one forward pass, its backward
    pass, and the backward pass of both. The published code computes the gradient once more, from its own pass.
    """
    images, labels = signals.batches[0]
    network = together(signals.copy())
    weights = list(unique_weights(network).values())
    # Attention in its plain form: the fused kernels cannot be differentiated twice.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        with _Twice():
            loss = mean_loss(network, images, labels)
        try:
            first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            met = [(weight, gradient) for weight, gradient in zip(weights, first, strict=True) if gradient is not None]
            length = torch.stack([(gradient * gradient.detach()).sum() for _, gradient in met]).sum()
            if not length.requires_grad:
                raise NotDefined("the gradient does not depend on the weights")
            second = torch.autograd.grad(length, [weight for weight, _ in met], allow_unused=True)
        except RuntimeError as error:
            if ran_out(error):
                raise
            raise NotDefined(f"the network cannot be differentiated twice: {error}") from error
    products = zip((weight.detach() for weight, _ in met), second, strict=True)
    return float(
        sum((weight * product).sum(dtype=torch.float64) for weight, product in products if product is not None)
    )
