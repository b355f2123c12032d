"""What the numbers say, in sentences. Nothing here is computed anew: figures come from the repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.dashboard.formats import heading, plain, value
from service.wire.searches import RankAudit
from service.wire.studies import ObjectiveOut

LEAST_PROBES = 15
"""Below this many probes an interval says little; searches trust no predictor before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``tone``: good, poor or open. ``headline`` is a few words, ``text`` a sentence or two."""

    tone: str
    headline: str
    text: str


def verdict(audit: RankAudit) -> Verdict:
    """How a predictor did on its probes, against what costs nothing to count."""
    need = f"{audit.n} of at least {LEAST_PROBES} probes"
    if audit.n < LEAST_PROBES:
        return Verdict(
            "open",
            "Too few probes",
            f"Only {need} have been predicted and measured: nothing can be said yet about how well it ranks.",
        )
    if audit.kendall_tau is None or audit.ci_low is None or audit.ci_high is None:
        return Verdict(
            "poor",
            "Ranks nothing",
            f"On {audit.n} probes all predictions or all measurements are equal: a rank correlation is undefined.",
        )
    tau, low = audit.kendall_tau, audit.ci_low
    name, best = _best_baseline(audit)
    if best is None:
        best, name = 0.0, "chance"
    against = f"{name} alone, with tau {plain(best, 2)} on the same {audit.n} probes"
    if tau <= best:
        return Verdict("poor", f"No better than {name}", f"It ranks no better than {against}.")
    if low <= best:
        return Verdict(
            "open",
            f"Not shown to be better than {name}",
            f"It ranks better than {against}, but the interval of its tau reaches down to {plain(low, 2)}: "
            "this can be chance.",
        )
    return Verdict("good", f"Ranks better than {name}", f"It ranks better than {against}; its interval is above that.")


def scaling(objectives: Sequence[ObjectiveOut]) -> str:
    """How hypervolumes of a study are scaled."""
    bounds = "; ".join(
        f"{heading(each.metric)}: {value(each.metric, each.bounds[0])} is 0, {value(each.metric, each.bounds[1])} is 1"
        for each in objectives
    )
    largest = 1.1 ** len(objectives)
    return f"Scaled: {bounds}. Reference point 1.1 in each, so the most there can be is {plain(largest)}."


def _best_baseline(audit: RankAudit) -> tuple[str, float | None]:
    known = [
        (tau, name) for name, tau in (("MACs", audit.macs_tau), ("parameters", audit.params_tau)) if tau is not None
    ]
    if not known:
        return "", None
    tau, name = max(known)
    return name, tau
