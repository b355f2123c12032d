"""Zero-cost proxies: scores of untrained networks. Imports no torch until a network is scored."""

from predictors.proxies.measure import measure
from predictors.proxies.proxy import NotDefined, Proxy, Undefined

__all__ = ["NotDefined", "Proxy", "Undefined", "measure"]
