"""What can be built: search spaces and their encodings.

Importing this package, or any space, does not import torch; only modules below ``networks`` and ``supernets`` do.
"""

from search_spaces.declared import Declared
from search_spaces.encoding import one_hot, one_hot_names, ordinal, ordinal_names
from search_spaces.mobilenetv3 import MobileNetV3, scaled
from search_spaces.nasbench201 import NasBench201
from search_spaces.plugins import UnknownPlugin, load, names
from search_spaces.space import (
    Choice,
    Genes,
    Graphs,
    InvalidArchitecture,
    InvalidSpace,
    SearchSpace,
    Unsupported,
    distinct,
)

__all__ = [
    "Choice",
    "Declared",
    "Genes",
    "Graphs",
    "InvalidArchitecture",
    "InvalidSpace",
    "MobileNetV3",
    "NasBench201",
    "SearchSpace",
    "UnknownPlugin",
    "Unsupported",
    "distinct",
    "load",
    "names",
    "one_hot",
    "one_hot_names",
    "ordinal",
    "ordinal_names",
    "scaled",
]
