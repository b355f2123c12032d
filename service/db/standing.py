"""What zero-cost proxies are worth in a study: how their scores rank what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from predictors.bootstrap import Interval
from predictors.proxies.proxy import catalogue
from predictors.standing import LEAST, Bools, Standing, Verdict, best_rows, correlations, standings
from service.core.objectives import Direction, Values
from service.core.scoring import AGGREGATES, scorable
from service.db.scored import Sample, Score
from service.wire.standing import BesideOut, CorrelationsOut, ProxyStandings, RankOut, StandingOut

_SEED = 0
"""Of the bootstrap: the same rows give the same answer."""
_LABELS = {"macs": "MACs", "params": "parameters"}
_SAID = {Verdict.BETTER: "better than", Verdict.NO_BETTER: "no better than", Verdict.WORSE: "worse than"}


def describe(found: Sample) -> ProxyStandings:
    """The standings of a sample's scores. No database is asked."""
    target, scores = _turned(found)
    rng = np.random.default_rng(_SEED)
    made = standings(scores, target, found.counted, rng)
    plain = standings(found.counted, target, {}, rng)
    told = by_tau([_standing(each, made[each.name]) for each in found.scores])
    return ProxyStandings(
        metric=found.metric,
        direction=found.direction,
        rows=found.rows,
        measured=found.measured,
        scored=found.scored,
        n=len(target),
        chosen=found.chosen,
        caution=_caution(found),
        proxies=told,
        counted=[_counted(name, plain[name]) for name in found.counted],
        correlations=_correlated(
            {found.metric: target, **{each.name: scores[each.name] for each in told}, **found.counted}
        ),
    )


def by_tau(standings: Iterable[StandingOut]) -> list[StandingOut]:
    """The highest Kendall's tau first, those without one last."""
    return sorted(standings, key=lambda each: math.inf if each.kendall.value is None else -each.kendall.value)


def _correlated(columns: Mapping[str, Values]) -> CorrelationsOut:
    rho, n = correlations(list(columns.values()))
    numbers = [[_finite(value) for value in row] for row in rho.tolist()]
    return CorrelationsOut(names=list(columns), rho=numbers, n=n.tolist())


def best(found: Sample) -> Bools:
    """(n,): the best tenth of a sample."""
    return best_rows(_turned(found)[0])


def _turned(found: Sample) -> tuple[Values, dict[str, Values]]:
    """What was measured, and the scores: all so that more should be better."""
    sign = {Direction.MINIMISE: -1.0, Direction.MAXIMISE: 1.0}
    scores = {each.name: sign[each.direction] * each.values for each in found.scores}
    return sign[found.direction] * found.values, scores


def _standing(score: Score, made: Standing) -> StandingOut:
    return StandingOut(
        name=score.name,
        title=title(score.name),
        direction=score.direction,
        partial=_rank(made.partial),
        beside=[
            BesideOut(baseline=one.baseline, tau=_rank(one.tau), difference=_rank(one.difference), verdict=one.verdict)
            for one in made.beside
        ],
        words=_words(made),
        seconds=score.seconds,
        undefined=score.undefined,
        context=score.context,
        **_ranks(made),
    )


def _counted(name: str, made: Standing) -> StandingOut:
    return StandingOut(
        name=name,
        title=_LABELS[name],
        direction=Direction.MAXIMISE,
        partial=None,
        beside=[],
        words="counted, costs nothing",
        seconds=0.0,
        undefined=0,
        context={},
        **_ranks(made),
    )


def _ranks(made: Standing) -> dict[str, RankOut | None]:
    return {
        "kendall": _rank(made.kendall),
        "spearman": _rank(made.spearman),
        "best_kendall": _rank(made.best_kendall) if made.best_kendall else None,
        "best_spearman": _rank(made.best_spearman) if made.best_spearman else None,
    }


def _words(made: Standing) -> str:
    """What there is to say of a score beside what is counted."""
    n = made.kendall.n
    if n < LEAST:
        return f"too few to say: {n} of at least {LEAST} architectures"
    if math.isnan(made.kendall.value):
        return f"ranks nothing: all {n} scores, or all {n} measured values, are the same"
    if not made.beside:
        return "the space counts nothing to compare it with"
    said: dict[Verdict, list[str]] = {}
    for each in made.beside:
        said.setdefault(each.verdict, []).append(_LABELS[each.baseline])
    parts = []
    for verdict, names in said.items():
        if verdict is Verdict.TOO_FEW:
            continue
        parts.append(f"{_SAID[verdict]} {(' or ' if verdict is Verdict.NO_BETTER else ' and ').join(names)}")
    return ", ".join(parts)


def _caution(found: Sample) -> str | None:
    """What the choice of rows does to correlations, where searches chose some of them."""
    narrow = "Chosen ones are alike, and all correlations are lower among them (restriction of range)."
    whom = "for what they expected of them"
    if found.chosen:
        return f"Searches chose {found.chosen:,} of these {len(found.values):,} architectures {whom}. {narrow}"
    if found.left_out:
        return f"{found.left_out:,} more architectures are left out, since searches chose them {whom}. {narrow}"
    return None


def title(name: str) -> str:
    """A proxy as its authors write it; any other metric by its name."""
    if name in AGGREGATES:
        return AGGREGATES[name].title
    return catalogue([name])[0].title if name in scorable() else name


def _rank(found: Interval) -> RankOut:
    return RankOut(value=_finite(found.value), low=_finite(found.low), high=_finite(found.high), n=found.n)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
