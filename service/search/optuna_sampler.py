"""Optuna's samplers as designers, through one adapter. Optuna is imported when a search first asks.

Each ask builds an in-memory study from the history, lets the sampler suggest, and throws the study away. Three things
make a rebuilt sampler go on as if it had lived:

- its seed is drawn from the ask's generator: with a constant seed it would propose the same point for ever;
- the system attributes that it gave each trial (NSGA-II: the generation) return from the trial's ``memo``: without
  them NSGA-II never leaves the first generation;
- the parents of each generation, which Optuna keeps in attributes of the study, return from `Suggestions.state`:
  parents are chosen once, and trials that end later must not change them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from predictors.predictor import Predictor
from search_spaces.space import Genes, SearchSpace
from service.core.history import History
from service.core.objectives import Constraint, Objective
from service.search.constraints import mutants, satisfies, taken_rows
from service.search.designer import Designer, FitRequest, Suggestion, Suggestions
from service.search.options import Option, read
from service.search.random import draw

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_RETRIES = 5
"""Times a sampler is asked again for one suggestion, when it names an architecture that is known or not allowed."""

_KEPT_PARENTS = 2
"""Generations whose parents are kept: Optuna looks at those of the current one and of the next."""

NSGA2_OPTIONS = (
    Option("population_size", 50, "trials in a generation", low=2),
    Option("crossover_prob", 0.9, "chance that a child has two parents", low=0, high=1),
    Option("swapping_prob", 0.5, "chance that such a child takes a choice from the second parent", low=0, high=1),
)
TPE_OPTIONS = (
    Option("startup", 10, "random trials before the first model", low=1),
    Option("candidates", 24, "samples of which the best becomes the suggestion", low=1),
    Option("multivariate", True, "model the choices together instead of each by itself"),
)


class OptunaDesigner(Designer):
    """The adapter: every choice is a categorical of its allowed options, every objective is minimised."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
    ) -> None:
        super().__init__(space, objectives, constraints, predictors)
        self._options = [np.flatnonzero(row).tolist() for row in space.allowed]
        self._free = [column for column, options in enumerate(self._options) if len(options) > 1]

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """A fresh sampler."""

    @final
    def wants(self, history: History) -> tuple[FitRequest, ...]:
        return ()

    @final
    def suggest(self, history: History, count: int, rng: np.random.Generator) -> Suggestions:
        if count < 1:
            return Suggestions((), history.state)
        from optuna.storages import InMemoryStorage

        storage = InMemoryStorage()
        study = self._study(history, self._sampler(int(rng.integers(2**31))), storage)
        taken = taken_rows(history)
        distributions = self._distributions()
        items: list[Suggestion] = []
        for _ in range(count):
            item = self._ask(study, distributions, taken, rng)
            if item is not None:
                items.append(item)
                taken.add(item.genes.tobytes())
        items += draw(
            self.space, self.constraints, count - len(items), rng, taken, "random: the sampler repeats itself"
        )
        return Suggestions(tuple(items), self._state(study, storage, history))

    def _ask(
        self,
        study: Study,
        distributions: dict[str, BaseDistribution],
        taken: set[bytes],
        rng: np.random.Generator,
    ) -> Suggestion | None:
        """One suggestion, or None when the sampler, and what lies near its last proposal, gave nothing new.

        Refused trials stay in the study as running: TPE then keeps away from them, and NSGA-II sees only what is
        complete.
        """
        proposal: Genes | None = None
        memo: dict[str, Any] = {}
        for _ in range(_RETRIES):
            trial = study.ask(distributions)
            row = np.array([options[0] for options in self._options], dtype=np.int8)
            row[self._free] = [trial.params[_name(column)] for column in self._free]
            if not self.space.valid(row[None])[0]:
                continue
            proposal = self.space.canonical(row[None])
            memo = {"optuna": dict(study.get_trials(deepcopy=False)[trial.number].system_attrs)}
            if proposal[0].tobytes() not in taken and satisfies(self.space, self.constraints, proposal)[0]:
                return Suggestion(proposal[0], "proposed by the sampler", memo=memo)
        if proposal is None:
            return None
        child = mutants(self.space, self.constraints, proposal, rng, taken)[0]
        return None if child is None else Suggestion(child, "mutant of a known proposal", memo=memo)

    def _study(self, history: History, sampler: BaseSampler, storage: BaseStorage) -> Study:
        import optuna

        # A study made in memory is announced at INFO; nobody asked for these, which live for one ask.
        logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)
        study = optuna.create_study(directions=["minimize"] * len(self.objectives), sampler=sampler, storage=storage)
        study.add_trials(self._trials(history, f"{type(sampler).__name__}:generation"))
        study_id = storage.get_study_id_from_name(study.study_name)
        ids = {int(number): index for index, number in enumerate(history.numbers)}
        for key, numbers in history.state.get("parents", {}).items():
            storage.set_study_system_attr(study_id, key, [ids[n] for n in numbers if n in ids])
        return study

    def _trials(self, history: History, generation_key: str) -> list[FrozenTrial]:
        """The history, in its order: the n-th trial gets the id n. Ended trials without values have failed."""
        from optuna.trial import TrialState, create_trial

        distributions = self._distributions()
        # Inactive choices are 0 in canonical rows even where a restriction leaves no 0: any allowed option will do.
        columns = np.arange(history.genes.shape[1])
        first = np.array([options[0] for options in self._options], dtype=np.int8)
        genes = np.where(self.space.allowed[columns, history.genes], history.genes, first)[:, self._free].tolist()
        broken = np.where(np.isnan(history.violations), np.inf, history.violations).tolist()
        complete, pending, values = history.complete, history.pending, history.objectives.tolist()
        generation: int | None = None
        trials = []
        for index, memo in enumerate(history.memo):
            attributes = dict(memo.get("optuna", {}))
            if generation_key in attributes:
                generation = max(generation or 0, attributes[generation_key])
            elif generation is not None:
                # Probes and fallbacks are not the sampler's: they count in the generation during which they were made.
                attributes[generation_key] = generation
            state = TrialState.RUNNING if pending[index] else TrialState.FAIL
            trials.append(
                create_trial(
                    state=TrialState.COMPLETE if complete[index] else state,
                    values=values[index] if complete[index] else None,
                    params=dict(zip(distributions, genes[index], strict=True)),
                    distributions=distributions,
                    system_attrs=attributes,
                    constraints={str(i): v for i, v in enumerate(broken[index])} if complete[index] else None,
                )
            )
        return trials

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution

        return {_name(column): CategoricalDistribution(self._options[column]) for column in self._free}

    def _state(self, study: Study, storage: BaseStorage, history: History) -> dict[str, Any]:
        stored = storage.get_study_system_attrs(storage.get_study_id_from_name(study.study_name))
        parents = {key: value for key, value in stored.items() if ":parent:" in key}
        newest = sorted(parents, key=lambda key: int(key.rpartition(":")[2]))[-_KEPT_PARENTS:]
        return {"parents": {key: [int(history.numbers[index]) for index in parents[key]] for key in newest}}


@final
class Nsga2(OptunaDesigner):
    """Optuna's NSGA-II (Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002)."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
        **options: Any,
    ) -> None:
        super().__init__(space, objectives, constraints, predictors)
        self._chosen = read(NSGA2_OPTIONS, options)

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, **self._chosen)


@final
class Tpe(OptunaDesigner):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; several objectives: Ozaki et al. 2022)."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        predictors: Mapping[str, Predictor],
        **options: Any,
    ) -> None:
        super().__init__(space, objectives, constraints, predictors)
        self._chosen = read(TPE_OPTIONS, options)

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(
            seed=seed,
            n_startup_trials=self._chosen["startup"],
            n_ei_candidates=self._chosen["candidates"],
            multivariate=self._chosen["multivariate"],
        )


def _name(column: int) -> str:
    return f"{column:04d}"
