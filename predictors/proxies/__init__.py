"""Zero-cost proxies: scores of untrained networks. Imports no torch until a network is scored."""

from predictors.proxies.measure import measure
from predictors.proxies.proxy import About, NotDefined, Proxy, Undefined, catalogue
from predictors.proxies.repeats import Repeated, measure_repeatedly

__all__ = ["About", "NotDefined", "Proxy", "Repeated", "Undefined", "catalogue", "measure", "measure_repeatedly"]
