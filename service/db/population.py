"""Samples of what a study has measured, to be described as a population."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from search_spaces.space import Genes, IntArray, InvalidSpace, Option, SearchSpace
from service.core import population
from service.core.errors import Invalid
from service.core.objectives import Direction, Values
from service.core.states import COUNTED
from service.db import front, fronts, ledger, spaces, studies
from service.db.architectures import unpack
from service.db.rows import chunks
from service.db.tables import Architecture, Search, Study, Trial
from service.wire.population import PopulationOut, Rows, ShiftOut, SpreadOut

RANDOM = "random"
"""The designer that draws uniformly: what it asks for is as good a sample as a probe."""
_SEED = 0
"""Of the bootstrap, and of the draw where there is too much: the same rows give the same answer."""

Rules = Mapping[str, Sequence[Option]]


@dataclass(frozen=True, slots=True)
class Sample:
    """Architectures (n, d) with their values (n,), out of ``measured``; ``chosen`` of them by a search."""

    space: SearchSpace
    metric: str
    direction: Direction
    rows: Rows
    genes: Genes
    values: Values
    measured: int
    chosen: int


def sample(s: Session, study_name: str, name: str, rows: Rows = "drawn") -> Sample:
    """What a study has measured of a metric; with rows "drawn" without what searches chose for its value.

    Drawn are probes, the trials of random searches, and what was imported. Of more than 20,000 so many are drawn.
    Raises `NotFound` for an unknown study, `Invalid` where fewer than two architectures are left.
    """
    study = studies.row(s, study_name)
    stored = spaces.row(s, study.space_id)
    space = spaces.load(stored)
    with fronts.of(s).study(s, study.id) as columns:
        contexts = ledger.study_contexts(s, study.id, studies.circumstances(s, study), [name])
        ids, values = columns.values(contexts, name)
    measured = len(ids)
    by_search = np.isin(ids, chosen(s, study))
    if rows == "drawn":
        ids, values, by_search = ids[~by_search], values[~by_search], by_search[~by_search]
    if len(ids) < 2:
        _refuse(name, rows, measured)
    most = max(2, min(population.MOST, population.MOST_GENES // len(space.choices)))
    if len(ids) > most:
        some = np.sort(np.random.default_rng(_SEED).choice(len(ids), most, replace=False))
        ids, values, by_search = ids[some], values[some], by_search[some]
    genes: dict[int, bytes] = {}
    for part in chunks(ids.tolist()):
        query = select(Architecture.id, Architecture.genes).where(Architecture.id.in_(part))
        genes.update((each, row) for each, row in s.execute(query))
    return Sample(
        space=space,
        metric=name,
        direction=front.axis(name, studies.objectives(study)).direction,
        rows=rows,
        genes=unpack([genes[each] for each in ids.tolist()], len(space.choices)),
        values=values,
        measured=measured,
        chosen=int(by_search.sum()),
    )


def describe(found: Sample, rules: Rules | None = None) -> PopulationOut:
    """The population of a sample, and of those that ``rules`` leave beside it. No database is asked.

    Raises `Invalid` for rules that are none of the space, or that leave fewer than two architectures.
    """
    restricted, shift = None, None
    if rules:
        try:
            inside = found.space.restrict(rules).valid(found.genes)
        except InvalidSpace as error:
            raise Invalid(f"rules.{error.field}" if error.field else "rules", error.message) from error
        if inside.sum() < 2:
            raise Invalid("rules", f"leave {int(inside.sum())} of {len(inside)} measured architectures, 2 are needed")
        restricted = _spread(found, found.genes[inside], found.values[inside])
        beside = population.shift(inside, found.values, found.direction)
        shift = ShiftOut.model_validate(asdict(beside)) if beside is not None else None
    return PopulationOut(
        metric=found.metric,
        direction=found.direction,
        rows=found.rows,
        measured=found.measured,
        chosen=found.chosen,
        whole=_spread(found, found.genes, found.values),
        restricted=restricted,
        shift=shift,
    )


def rules_of(text: str | None) -> dict[str, list[Any]]:
    """Rules from JSON text: ``{"choice": [options that are left, ...], ...}``. Raises `Invalid` naming the choice."""
    if not text:
        return {}
    try:
        rules = json.loads(text)
    except ValueError as error:
        raise Invalid("rules", f'must be JSON, as {{"e01": ["none"]}}: {error}') from None
    if not isinstance(rules, dict):
        raise Invalid("rules", f"must be an object of choices and lists of options, got {text[:200]}")
    for name, kept in rules.items():
        plain = isinstance(kept, list) and all(type(each) in (str, int, float) for each in kept)
        if not plain or not kept:
            raise Invalid(f"rules.{name}", "must be a list of at least one option, text or a number")
    return rules


def _spread(found: Sample, genes: Genes, values: Values) -> SpreadOut:
    made = population.describe(found.space, genes, values, found.direction, np.random.default_rng(_SEED))
    choices = [
        {
            "choice": each.choice,
            "effect": each.effect,
            "p": each.p,
            "options": [{"option": option, "shift": asdict(shift)} for option, shift in each.options],
        }
        for each in made.choices
    ]
    curve = {name: values.tolist() for name, values in asdict(made.curve).items()}
    return SpreadOut.model_validate({**asdict(made), "curve": curve, "choices": choices})


def chosen(s: Session, study: Study) -> IntArray:
    """Ids of the architectures that only searches which choose have measured."""
    drawn = or_(Trial.probe, Search.designer == RANDOM)
    mine = (
        select(Trial.architecture_id)
        .join(Search, Search.id == Trial.search_id)
        .where(Trial.study_id == study.id, Trial.state.in_(COUNTED))
        .distinct()
    )
    ids = np.array(s.scalars(mine.where(~drawn)).all(), dtype=np.int64)
    return np.setdiff1d(ids, np.array(s.scalars(mine.where(drawn)).all(), dtype=np.int64))


def _refuse(name: str, rows: Rows, measured: int) -> None:
    if measured < 2:
        raise Invalid("metric", f"{name} was measured of {measured} architectures in this study, 2 are needed")
    message = f"searches chose nearly all of the {measured} measured architectures for their value, 2 must be drawn"
    raise Invalid("rows", f"{message}: run a random search or probes, or describe all of them (rows=all)")
