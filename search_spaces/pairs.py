"""Cells in which every node adds what two different earlier nodes give it, and which of them are the same cell.

Nodes 0 and 1 are the cell's inputs, node 2 and the following ones read two different nodes before them, through an
operation each; the cell gives all of the latter, one behind the other. Two cells are the same if one becomes the other
by other names for its nodes.

A cell is a row of genes: for node 3 and the following ones the pair of nodes that they read, then two operations for
each node from 2 on, that of the lower input first. The pairs alone are its *structure*. Of a class the first row in the
order of genes stands for it. Hence its structure is the first that other names can give it, and its operations are the
first among those that the structure's symmetries can make of them: few structures have any, so little is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import combinations, permutations, product
from math import prod
from typing import final

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, FloatArray, Genes

MOST_NODES = 4
"""Operations of one cell are compared as one 64-bit number."""

_CHUNK = 8192
"""Rows compared at once: their candidates stay in the cache."""
_ROUNDS = 64
"""Bound of the rejection loop."""
_RARE, _FEW = 16, 1 << 20
"""Where fewer than one row in so many is canonical, and they are no more than this, they are listed to draw from."""

Index = NDArray[np.intp]
Pair = tuple[int, int]


@final
class Pairs:
    """All cells of ``nodes`` nodes beside the two inputs, with ``operations`` operations to choose from."""

    def __init__(self, nodes: int, operations: int) -> None:
        self.nodes, self.operations = nodes, operations
        self.inputs: tuple[tuple[Pair, ...], ...] = tuple(
            tuple(combinations(range(node), 2)) for node in range(2, nodes + 2)
        )
        """For each node the pairs that it may read, in the order of genes."""
        self.structures: tuple[tuple[Pair, ...], ...] = tuple(product(*self.inputs))
        """What each node reads, in the order of genes."""
        self.genes: Genes = np.array(list(product(*(range(len(pairs)) for pairs in self.inputs))), dtype=np.int8)[:, 1:]
        """(structures, nodes - 1): the genes of each structure."""
        sizes = [len(pairs) for pairs in self.inputs[1:]]
        self._places = [prod(sizes[place + 1 :]) for place in range(nodes - 1)]
        index = {structure: number for number, structure in enumerate(self.structures)}
        named = [[(index[other], take) for other, take in _renamed(each)] for each in self.structures]
        self._first: Index = np.array([min(other for other, _ in ways) for ways in named], dtype=np.intp)
        takes = [
            [take for other, take in ways if other == first] for ways, first in zip(named, self._first, strict=True)
        ]
        self.symmetries: tuple[NDArray[np.intp], ...] = tuple(np.array(each, dtype=np.intp) for each in takes)
        """For each structure (k, 2·nodes): all ways to line up its operations in the structure that stands for it."""
        self._takes: Index = np.concatenate(self.symmetries) + self.genes.shape[1]
        self._counts: Index = np.array([len(each) for each in takes], dtype=np.intp)
        self._starts: Index = np.cumsum(self._counts) - self._counts

    @property
    def width(self) -> int:
        """How many genes a cell has."""
        return 3 * self.nodes - 1

    def structure(self, cells: Genes) -> Index:
        """(n,): the number of each cell's structure."""
        result = np.zeros(len(cells), dtype=np.intp)
        for column, place in enumerate(self._places):
            result += cells[:, column].astype(np.intp) * place
        return result

    def canonical(self, cells: Genes) -> Genes:
        """(n, width): the row that stands for each cell's class."""
        result = np.empty_like(cells)
        for start in range(0, len(cells), _CHUNK):
            self._least(cells[start : start + _CHUNK], result[start : start + _CHUNK])
        return result

    def _least(self, cells: Genes, result: Genes) -> None:
        structures = self.structure(cells)
        counts = self._counts[structures]
        ends = np.cumsum(counts)
        begins = ends - counts
        # Each cell's candidates stand together: where the first of them begins in the table, and how far on each is.
        table = np.repeat(self._starts[structures] - begins, counts) + np.arange(ends[-1])
        cell = np.repeat(np.arange(0, cells.size, cells.shape[1]), counts)
        words = np.zeros((len(table), 8), dtype=np.int8)
        words[:, : 2 * self.nodes] = np.ascontiguousarray(cells).reshape(-1).take(self._takes[table] + cell[:, None])
        # As numbers of which the first operation is the highest digit.
        least = np.minimum.reduceat(words.view(">u8")[:, 0].astype(np.uint64), begins)
        pairs = self.genes.shape[1]
        result[:, :pairs] = self.genes[self._first[structures]]
        result[:, pairs:] = least.astype(">u8").view(np.int8).reshape(-1, 8)[:, : 2 * self.nodes]

    # ------------------------------------------------------------------ within a restriction

    def left(self, allowed: Bools) -> Index:
        """(k,): the structures that stand for a class and whose genes are ``allowed`` (width, widest)."""
        own = self._first == np.arange(len(self._first))
        columns = np.arange(self.genes.shape[1])
        return np.flatnonzero(own & allowed[columns, self.genes].all(axis=1))

    def count(self, allowed: Bools) -> int:
        """How many classes have their row within ``allowed`` (width, widest)."""
        return _counted(self, allowed.tobytes(), allowed.shape[1])

    def count_of(self, structure: int, allowed: Bools) -> int:
        """How many classes have their row in one structure, its operations within ``allowed`` (2·nodes, operations)."""
        group, choices = self.symmetries[structure], allowed.sum(axis=1).tolist()
        if (allowed[group] == allowed).all():
            # Burnside's lemma: orbits are the mean number of rows that a symmetry leaves as they are.
            fixed: int = sum(prod(choices[cycle[0]] for cycle in _cycles(take.tolist())) for take in group)
            return fixed // len(group)
        # Places that no symmetry moves are free.
        moved = np.flatnonzero((group != np.arange(len(choices))).any(axis=0))
        others = prod(choices) // prod(choices[place] for place in moved) if all(choices) else 0
        return others * sum(len(rows) for rows in _least(np.searchsorted(moved, group[:, moved]), allowed[moved]))

    def draw(self, count: int, allowed: Bools, rng: np.random.Generator) -> Genes:
        """(count, width): canonical rows within ``allowed`` (width, widest), each as likely; fewer if hardly any is
        left."""
        operations = allowed[self.genes.shape[1] :, : self.operations]
        structures, options = self.left(allowed), operations.sum(axis=1)
        total, rows = _counted(self, allowed.tobytes(), allowed.shape[1]), len(structures) * prod(options.tolist())
        if total * _RARE <= rows and total <= _FEW:  # or none at all
            every = _listed(self, allowed.tobytes(), allowed.shape[1])
            return every[rng.integers(len(every), size=count)] if len(every) else every
        # Each structure that stands for a class has as many rows, of which the canonical ones are kept: without a
        # restriction four in five.
        order = np.argsort(~operations, axis=1, kind="stable").astype(np.int8)
        kept, found = [np.empty((0, self.width), dtype=np.int8)], 0
        for _ in range(_ROUNDS):
            if found >= count:
                break
            drawn = structures[rng.integers(len(structures), size=64 + (count - found) * 5 // 4)]
            ranks = (rng.random((len(drawn), len(options)), dtype=np.float32) * options).astype(np.int8)
            cells = np.concatenate([self.genes[drawn], order[np.arange(len(options)), ranks]], axis=1)
            kept.append(cells[(self.canonical(cells) == cells).all(axis=1)])
            found += len(kept[-1])
        return np.concatenate(kept)[:count]

    def cheapest(self, allowed: Bools, costs: FloatArray) -> Genes | None:
        """(width,): the first of the canonical rows in ``allowed`` whose ``costs`` sum to least; None if there is none.

        ``costs`` (structures, 2·nodes, operations): of each operation in each place.
        """
        pairs = self.genes.shape[1]
        operations = allowed[pairs:, : self.operations]
        if not operations.any(axis=1).all():
            return None
        structures, places = self.left(allowed), np.arange(2 * self.nodes)
        priced = np.where(operations, costs[structures], np.inf)
        bounds = priced.min(axis=2).sum(axis=1)
        best = np.inf
        found: Genes | None = None
        for number in np.argsort(bounds, kind="stable").tolist():
            if bounds[number] >= best:
                break
            structure = int(structures[number])
            row = self.canonical(
                np.concatenate([self.genes[structure], priced[number].argmin(axis=1)])[None].astype(np.int8)
            )
            if operations[places, row[0, pairs:]].all():
                attained: Genes = row[0]
                return attained
            # The cheapest operations stand for no class within the restriction: see all that do.
            for rows in _least(self.symmetries[structure], operations):
                totals = priced[number][places, rows].sum(axis=1)
                if len(rows) and totals.min() < best:
                    best = float(totals.min())
                    found = np.concatenate([self.genes[structure], rows[totals.argmin()]])
        return found

    # ------------------------------------------------------------------ as graphs

    @cached_property
    def reads_input(self) -> Bools:
        """(structures, 2·nodes): which operations read an input of the cell."""
        return np.array(self.structures).reshape(len(self.structures), -1) < 2

    @cached_property
    def feeds(self) -> Bools:
        """(structures, 2 + 2·nodes, 2·nodes): which inputs and operations feed which operation, for each structure.

        What reads a node reads both operations whose results that node adds.
        """
        result = np.zeros((len(self.structures), 2 + 2 * self.nodes, 2 * self.nodes), dtype=bool)
        for number, structure in enumerate(self.structures):
            for operation, node in enumerate(node for pair in structure for node in pair):
                sources = [node] if node < 2 else [2 * node - 2, 2 * node - 1]
                result[number, sources, operation] = True
        return result


@lru_cache(maxsize=1024)
def _counted(pairs: Pairs, allowed: bytes, widest: int) -> int:
    left = np.frombuffer(allowed, dtype=bool).reshape(-1, widest)
    operations = left[pairs.genes.shape[1] :, : pairs.operations]
    return sum(pairs.count_of(int(structure), operations) for structure in pairs.left(left))


@lru_cache(maxsize=8)
def _listed(pairs: Pairs, allowed: bytes, widest: int) -> Genes:
    """(k, width): all canonical rows."""
    left = np.frombuffer(allowed, dtype=bool).reshape(-1, widest)
    operations = left[pairs.genes.shape[1] :, : pairs.operations]
    parts = [np.empty((0, pairs.width), dtype=np.int8)]
    for structure in pairs.left(left).tolist():
        for rows in _least(pairs.symmetries[structure], operations):
            parts.append(np.concatenate([np.tile(pairs.genes[structure], (len(rows), 1)), rows], axis=1))
    return np.concatenate(parts)


def _renamed(structure: tuple[Pair, ...]) -> Iterator[tuple[tuple[Pair, ...], list[int]]]:
    """Each structure that other names make of this one, and from which place each of its operations comes."""
    for order in permutations(range(len(structure))):
        name = {0: 0, 1: 1} | {old + 2: new + 2 for new, old in enumerate(order)}
        # What each node reads under its new name, and the place of the operation through which it does.
        read = [sorted((name[node], 2 * old + place) for place, node in enumerate(structure[old])) for old in order]
        if all(pair[1][0] < new + 2 for new, pair in enumerate(read)):
            yield tuple((low[0], high[0]) for low, high in read), [place for pair in read for _, place in pair]


def _cycles(take: list[int]) -> list[list[int]]:
    """The cycles of a permutation."""
    result, seen = [], set[int]()
    for start in range(len(take)):
        cycle: list[int] = []
        while start not in seen:
            seen.add(start)
            cycle.append(start)
            start = take[start]
        if cycle:
            result.append(cycle)
    return result


def _least(group: Index, allowed: Bools) -> Iterator[Genes]:
    """(k, places) blocks of all rows in ``allowed`` (places, operations) that no symmetry turns into an earlier one."""
    options = [np.flatnonzero(row) for row in allowed]
    half = len(options) // 2
    begin = _grown(np.zeros((1, 0), dtype=np.int8), options[:half], group)
    for start in range(0, len(begin), 64):
        yield _grown(begin[start : start + 64], options[half:], group)


def _grown(rows: Genes, options: list[NDArray[np.intp]], group: Index) -> Genes:
    """The rows with these options in further places, without those that some symmetry turns into an earlier row."""
    for choices in options:
        repeated = np.repeat(rows, len(choices), axis=0)
        rows = np.concatenate([repeated, np.tile(choices, len(rows))[:, None].astype(np.int8)], axis=1)
        for take in group[1:]:
            # How many places of the other row are known.
            known = int((take >= rows.shape[1]).argmax()) if (take >= rows.shape[1]).any() else len(take)
            digits = 1 << 3 * np.arange(known, dtype=np.int64)[::-1]
            rows = rows[rows[:, take[:known]] @ digits >= rows[:, :known] @ digits]
    return rows
