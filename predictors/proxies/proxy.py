"""The contract of a zero-cost proxy: a score of an untrained network, from one or a few minibatches.

A proxy is a plug-in of the group ``frontier.proxies``: what makes a `Proxy` without arguments, its class or, for a
variant, a function that gives the class its options (``gradsign_mean``). It asks
`predictors.proxies.signals.Signals` for the passes it needs, so that proxies which need the same ones share them.

Errors::

    ValueError
    └── NotDefined    raised by a pass or a proxy; `predictors.proxies.measure` makes an `Undefined` of it
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from search_spaces import plugins

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

Need: TypeAlias = Literal["forward", "backward", "labels", "relus", "feature_maps", "minibatches"]
"""``feature_maps``: an output before pooling; ``minibatches``: two or more of them."""


@dataclass(frozen=True, slots=True)
class About:
    """What there is to say of a proxy.

    Attributes:
        name: of the plug-in, and of the metric.
        title: as its authors write it.
        paper: where it comes from.
        formula: what is computed, in words and signs.
        needs: what it takes of the network and the data.
        failure: what it cannot do, and where it is undefined.
        direction: whether a good network has a ``higher`` or a ``lower`` score.
        unit: of the score.
    """

    name: str
    title: str
    paper: str
    formula: str
    needs: frozenset[Need]
    failure: str
    direction: Literal["higher", "lower"] = "higher"
    unit: str = "score"

    def __post_init__(self) -> None:
        for field in ("name", "title", "paper", "formula", "failure", "unit"):
            if not getattr(self, field):
                raise ValueError(f"{self.name or 'a proxy'} has no {field}")
        if unknown := sorted(self.needs - set(get_args(Need))):
            raise ValueError(f"{self.name} needs {unknown}, known are {get_args(Need)}")
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"{self.name}: better must be higher or lower, is {self.direction}")


@dataclass(frozen=True, slots=True)
class Undefined:
    """What a proxy gives for a network that it has no score for; ``reason`` says why."""

    reason: str


class NotDefined(ValueError):
    """The proxy is not defined for this network; the message says why."""


class Proxy(ABC):
    """One proxy; ``about`` says which."""

    about: About

    @abstractmethod
    def score(self, signals: Signals) -> float:
        """The score. Raises `NotDefined` where there is none; NaN and infinity are made `Undefined` too."""


def catalogue(names: Iterable[str] | None = None) -> tuple[About, ...]:
    """What there is to say of these proxies, or of all that are installed. Imports no torch.

    Raises `UnknownPlugin` for a name that is no proxy.
    """
    return tuple(load(name).about for name in (plugins.names("proxies") if names is None else names))


def load(name: str) -> Proxy:
    """The proxy of this name. Raises `UnknownPlugin`."""
    proxy: Proxy = plugins.load("proxies", name)()
    return proxy
