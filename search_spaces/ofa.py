"""How Once-for-All writes a sub-network (Cai et al., ICLR 2020): a JSON object of a list per kind of choice.

``{"ks": [3, 5, ...], "e": [6, 4, ...], "d": [2, 4, ...], "image_size": 224}``: the lists go over all blocks of the
super-network, in order, whether the depths leave them or not. Its tables write 0 for a block that is cut off; that is
read as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.space import InvalidArchitecture, Option

_SIZE = "image_size"


def write(image_size: Option, lists: Mapping[str, Sequence[Option]]) -> str:
    """One sub-network as text."""
    return json.dumps({**{name: list(values) for name, values in lists.items()}, _SIZE: image_size})


def read(text: str, lengths: Mapping[str, int]) -> tuple[Any, dict[str, list[Any]]]:
    """The size of the images and the lists, of these lengths. Raises `InvalidArchitecture` as if it were row 0."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise refused("must be JSON") from None
    names = [*lengths, _SIZE]
    if not isinstance(given, dict) or sorted(given) != sorted(names):
        raise refused(f"must be an object of {names}")
    for name, length in lengths.items():
        if not isinstance(given[name], list) or len(given[name]) != length:
            raise refused(f"{name} must be a list of {length}")
    return given[_SIZE], {name: given[name] for name in lengths}


def option(where: str, value: Any, options: Sequence[Option]) -> int:
    """The index of a value among the options. Raises `InvalidArchitecture` as if it were row 0."""
    if isinstance(value, bool) or value not in options:
        raise refused(f"{where} is {value!r}, options are {list(options)}")
    return list(options).index(value)


def image_size(value: Any, options: Sequence[Option]) -> int:
    """`option` for the size of the images."""
    return option(_SIZE, value, options)


def refused(message: str) -> InvalidArchitecture:
    """The error for a text that is none of a sub-network."""
    return InvalidArchitecture(message, row=0, field="notation")
