"""The contract of a zero-cost proxy: a score of an untrained network, from one or a few minibatches.

A proxy is a plug-in of the group ``frontier.proxies``: a final class that can be made without arguments. It asks
`predictors.proxies.signals.Signals` for the passes it needs, so that proxies which need the same ones share them.

Errors::

    ValueError
    └── NotDefined    raised by a pass or a proxy; `predictors.proxies.measure` makes an `Undefined` of it
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

Need: TypeAlias = Literal["forward", "backward", "labels"]


@dataclass(frozen=True, slots=True)
class Undefined:
    """What a proxy gives for a network that it has no score for; ``reason`` says why."""

    reason: str


class NotDefined(ValueError):
    """The proxy is not defined for this network; the message says why."""


class Proxy(ABC):
    """One proxy.

    Attributes:
        name: of the plug-in.
        paper: where it comes from.
        formula: what is computed, in words and signs.
        needs: the passes it asks for, and whether labels matter.
        direction: whether a good network has a ``higher`` or a ``lower`` score.
        failure: known failures, one sentence.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    formula: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    direction: ClassVar[Literal["higher", "lower"]]
    failure: ClassVar[str]

    @abstractmethod
    def score(self, signals: Signals) -> float:
        """The score. Raises `NotDefined` where there is none; NaN and infinity are made `Undefined` too."""
