"""Labelled graphs from an input to an output as numbers, many at a time: what is dead in them, and which are the same.

A graph has ``vertices`` places, the input first and the output last; an edge leads from a place to a later one. Each
inner vertex has a label of 0 to 2. As a row it is one gene per edge, in the order of `edges`, then one per label. As a
*code* it is one int32: above `LABEL_BITS`, the edges as bits in the same order; below, the labels as digits in base 3,
that of the first vertex the most significant. *Vertices as bits* are an int32 with bit v for vertex v.

A vertex that no path from the input to the output passes is dead. A *pruned* graph has no edges at dead vertices, and
their labels are 0. Two pruned graphs are isomorphic if other names of the inner vertices make one of the other. The
*first* code of a class is its smallest: dead vertices lie behind all others, and it is the one that NAS-Bench-101's
generator meets first (Ying et al., ICML 2019). It is found by trying all names: 120 at 7 vertices.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Genes

Codes = NDArray[np.int32]

MOST_VERTICES = 7
LABELS = 3
LABEL_BITS = 8

_IMPOSSIBLE = 1 << 30
"""Above all codes: what names make of an edge that leads back."""
_LOW = 11
"""Edges are looked up by so many low bits and by the rest."""
_CHUNK = 1 << 14
_FEW = 1 << 10
"""Codes made at once, and codes under all names: they stay in the cache."""


def edges(vertices: int) -> list[tuple[int, int]]:
    """(from, to) of each edge: those into a vertex lie side by side."""
    return [(a, b) for b in range(1, vertices) for a in range(b)]


def pack(genes: Genes, vertices: int) -> Codes:
    """(n,): the codes of rows (n, d)."""
    count = len(edges(vertices))
    codes = np.zeros(len(genes), dtype=np.int32)
    for column in genes[:, count:].T:
        codes = codes * LABELS + column
    for place, eight in enumerate(np.packbits(genes[:, :count], axis=1, bitorder="little").T):
        codes |= eight.astype(np.int32) << (LABEL_BITS + 8 * place)
    return codes


def unpack(codes: Codes, vertices: int) -> Genes:
    """The inverse of `pack`."""
    bits = (codes >> LABEL_BITS).astype("<i4").view(np.uint8).reshape(len(codes), 4)
    shown = np.unpackbits(bits, axis=1, count=len(edges(vertices)), bitorder="little")
    return np.concatenate([shown, _digits(vertices)[codes & _LABELS]], axis=1).astype(np.int8)


_LABELS = (1 << LABEL_BITS) - 1


def into(codes: Codes, vertex: int) -> Codes:
    """(n,): which vertices feed this one, as bits."""
    return (codes >> (LABEL_BITS + vertex * (vertex - 1) // 2)) & ((1 << vertex) - 1)


def count_edges(codes: Codes) -> NDArray[np.uint8]:
    """(n,): how many edges there are, dead or alive."""
    return np.asarray(np.bitwise_count(codes >> LABEL_BITS))


def pruned(codes: Codes, vertices: int) -> tuple[Codes, Codes]:
    """(n,) each: the codes without what is dead, and the vertices that are alive as bits.

    Both are 0 where no path leads from the input to the output.
    """
    result, alive = np.empty_like(codes), np.empty_like(codes)
    for start in range(0, len(codes), _CHUNK):
        part = slice(start, start + _CHUNK)
        result[part], alive[part] = _pruned(codes[part], vertices)
    return result, alive


def _pruned(codes: Codes, vertices: int) -> tuple[Codes, Codes]:
    last = vertices - 1
    feeding = [into(codes, vertex) for vertex in range(vertices)]
    fed, used = np.ones_like(codes), np.full_like(codes, 1 << last)
    for vertex in range(1, vertices):
        fed |= ((feeding[vertex] & fed) != 0).astype(np.int32) << vertex
    for vertex in range(last, 0, -1):
        used |= feeding[vertex] * ((used >> vertex) & 1)
    alive = fed & used
    kept = _labels_left(vertices)[(alive >> 1) & ((1 << (vertices - 2)) - 1), codes & _LABELS]
    for vertex in range(1, vertices):
        read = feeding[vertex] & alive
        kept |= read * ((alive >> vertex) & 1) << (LABEL_BITS + vertex * (vertex - 1) // 2)
    return kept, alive


def first(codes: Codes, vertices: int) -> Codes:
    """(n,): for each pruned graph the first code of its class."""
    by_low, by_high, by_labels = _renamed(vertices)
    result = np.empty_like(codes)
    for start in range(0, len(codes), _FEW):
        low, high, labels = _parts(codes[start : start + _FEW])
        renamed = by_low.take(low, axis=0)
        renamed |= by_high.take(high, axis=0)
        renamed |= by_labels.take(labels, axis=0)
        renamed.min(axis=1, out=result[start : start + _FEW])
    return result


@lru_cache(maxsize=4)
def classes(vertices: int, most_edges: int) -> Codes:
    """(k,), rising: the first codes of all classes of pruned graphs of at most so many edges; 423,624 for 7 and 9."""
    bare = np.arange(1 << len(edges(vertices)), dtype=np.int32) << LABEL_BITS
    bare = bare[count_edges(bare) <= most_edges]
    kept, alive = pruned(bare, vertices)
    bare = bare[(kept == bare) & (alive > 0)]
    bare = bare[first(bare, vertices) == bare]
    # A row per graph, a column per labelling. First are those that no renaming of the graph onto itself lowers.
    inner = (pruned(bare, vertices)[1] >> 1) & ((1 << (vertices - 2)) - 1)
    labels = np.arange(LABELS ** (vertices - 2), dtype=np.int32)
    fits = _labels_left(vertices)[inner] == labels
    low, high, _ = _parts(bare)
    by_low, by_high, by_labels = _renamed(vertices)
    onto_itself = (by_low[low] | by_high[high]) == bare[:, None]
    for these, become in zip(onto_itself.T, by_labels.T, strict=True):
        fits[these] &= become >= labels
    parts = []
    for start in range(0, len(bare), _FEW):
        graph, labelling = np.nonzero(fits[start : start + _FEW])
        parts.append(bare[start + graph] | labels[labelling])
    found: Codes = np.concatenate(parts)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=4)
def graphs(vertices: int, most_edges: int) -> tuple[Codes, Codes]:
    """(k,) each: all graphs, their labels 0, that pruned have at least one and at most so many edges; who is alive."""
    bare = np.arange(1 << len(edges(vertices)), dtype=np.int32) << LABEL_BITS
    kept, alive = pruned(bare, vertices)
    fine = (alive > 0) & (count_edges(kept) <= most_edges)
    bare, alive = bare[fine], alive[fine]
    bare.flags.writeable = alive.flags.writeable = False
    return bare, alive


# ---------------------------------------------------------------------- tables


def _parts(codes: Codes) -> list[NDArray[np.intp]]:
    """Where codes are looked up in the tables of `_renamed`."""
    bits = codes >> LABEL_BITS
    return [part.astype(np.intp) for part in (bits & ((1 << _LOW) - 1), bits >> _LOW, codes & _LABELS)]


@cache
def _renamed(vertices: int) -> tuple[Codes, Codes, Codes]:
    """What each way to name the inner vertices makes of codes, a column for each: by low edges, high edges, labels."""
    inner = vertices - 2
    weights = LABELS ** np.arange(inner - 1, -1, -1, dtype=np.int32)
    columns = []
    for names in permutations(range(inner)):
        place = [0, *(1 + name for name in names), vertices - 1]
        moved = [
            1 << (LABEL_BITS + place[a] + place[b] * (place[b] - 1) // 2) if place[a] < place[b] else _IMPOSSIBLE
            for a, b in edges(vertices)
        ]
        by_labels = (_digits(vertices) * weights[list(names)]).sum(axis=1, dtype=np.int32)
        columns.append((_unions(moved[:_LOW]), _unions(moved[_LOW:]), by_labels))
    by_low, by_high, by_labels = (np.ascontiguousarray(np.stack(each, axis=1)) for each in zip(*columns, strict=True))
    return by_low, by_high, by_labels


def _unions(values: list[int]) -> Codes:
    """(2^k,): the union of the values that each set of k bits picks."""
    result = np.zeros(1, dtype=np.int32)
    for value in values:
        result = np.concatenate([result, result | np.int32(value)])
    return result


@cache
def _digits(vertices: int) -> Genes:
    """(3^k, k): the labels of the k inner vertices, in the order of codes."""
    rows = list(product(range(LABELS), repeat=vertices - 2))
    return np.array(rows, dtype=np.int8).reshape(len(rows), vertices - 2)


@cache
def _labels_left(vertices: int) -> Codes:
    """(2^k, 3^k): what is left of each labelling where only these of the k inner vertices are alive."""
    inner = vertices - 2
    alive = np.arange(1 << inner)[:, None] >> np.arange(inner) & 1
    weights = LABELS ** np.arange(inner - 1, -1, -1)
    return ((alive[:, None, :] * _digits(vertices)) @ weights).astype(np.int32)
