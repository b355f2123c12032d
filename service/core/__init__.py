"""Pure values: errors, states, metrics, objectives, the history of a search, fronts and hypervolume."""

from service.core.errors import Fault, FrontierError, Infeasible, Invalid, JobError, NotFound
from service.core.history import History
from service.core.objectives import Constraint, Direction, Objective, minimised, scaled, violations
from service.core.pareto import crowding, front, hypervolume, hypervolume_curve, nondominated, ranks
from service.core.states import SearchState, State

__all__ = [
    "Constraint",
    "Direction",
    "Fault",
    "FrontierError",
    "History",
    "Infeasible",
    "Invalid",
    "JobError",
    "NotFound",
    "Objective",
    "SearchState",
    "State",
    "crowding",
    "front",
    "hypervolume",
    "hypervolume_curve",
    "minimised",
    "nondominated",
    "ranks",
    "scaled",
    "violations",
]
