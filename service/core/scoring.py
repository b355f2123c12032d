"""How untrained networks are scored by zero-cost proxies: what there is to score, and what a score depends on.

A proxy scores one network. An aggregate makes the ranks that several proxies give a whole pool of architectures into
one score (`predictors.proxies.aggregates`); asked for, its columns are scored first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from predictors.proxies import aggregates
from predictors.proxies.proxy import catalogue
from search_spaces.plugins import names as plugin_names

IMAGES = 64
"""In a minibatch."""

MINIBATCHES = 2
"""For proxies that need several."""

LARGEST_POOL = 20_000
"""Architectures among which an aggregate ranks."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """One aggregate: the proxies whose scores are its ``columns``, and what makes them one score each."""

    columns: tuple[str, ...]
    title: str
    paper: str
    rank: Callable[[ArrayLike, Sequence[str]], aggregates.Aggregate]


AGGREGATES: Mapping[str, Pooled] = {
    "az_nas": Pooled(
        aggregates.AZ_NAS,
        "AZ-NAS",
        "Lee & Ham, AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024",
        aggregates.az_nas,
    ),
    "vote": Pooled(
        aggregates.VOTE,
        "Vote",
        "Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021",
        aggregates.vote,
    ),
}


@dataclass(frozen=True, slots=True)
class Scoring:
    """Training images in a minibatch, how many minibatches a proxy gets that needs several, and how many
    initialisations of the network a score is the mean over.

    ``pool``: digest of what an aggregate ranked.
    """

    batch: int = IMAGES
    minibatches: int = MINIBATCHES
    repeats: int = 1
    pool: str | None = None

    def options(self, name: str) -> dict[str, Any]:
        """What the score by one proxy, or aggregate, depends on, as JSON for its context."""
        result: dict[str, Any] = {"batch": self.batch}
        if needs_minibatches([name]):
            result["minibatches"] = self.minibatches
        if self.repeats > 1:
            result["repeats"] = self.repeats
        if name in AGGREGATES:
            result["pool"] = self.pool
        return result

    def images(self, names: Iterable[str]) -> int:
        """Training images that scoring by these proxies takes."""
        return self.batch * (self.minibatches if needs_minibatches(names) else 1)


def scorable() -> list[str]:
    """Everything that can be asked for: proxies and aggregates of them, sorted."""
    installed = plugin_names("proxies")
    whole = [name for name, pooled in AGGREGATES.items() if set(pooled.columns) <= set(installed)]
    return sorted({*installed, *whole})


def columns(names: Iterable[str]) -> list[str]:
    """The proxies that have to be scored for these, each once."""
    return list(
        dict.fromkeys(each for name in names for each in (AGGREGATES[name].columns if name in AGGREGATES else (name,)))
    )


def needs_minibatches(names: Iterable[str]) -> bool:
    """Whether one of these takes several minibatches."""
    return any("minibatches" in about.needs for about in catalogue(columns(names)))
