"""NAS-Bench-Graph's networks (Qin et al., NeurIPS Datasets and Benchmarks 2022) on a plain adjacency matrix.

Graphs are dense: ``adjacency[i, j]`` is the weight with which node i reads node j, 0 where it does not. All layers
transform features before they send them: the result is that of the published order, and the raw features, which are
wide, are never sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Device = torch.device | str | None
SKIP = "skip"
_TWO = frozenset({"cheb", "sage", "arma", "graph"})
"""Layers with weights of their own for what a node was itself."""
_SLOPE = 0.2
"""Of the leaky ReLU before attention's softmax (Veličković et al., ICLR 2018)."""


class Network(nn.Module):
    """Features (b, n, inputs) and adjacency (b, n, n) → logits (b, n, classes); any number n of nodes.

    ``links``: for each computing node the one that it reads, 0 for the raw features, k for the k-th; ``operations``:
    their names. A computing node normalises what it reads by batch norm and a ReLU, except for raw features.

    A skip hands on what it reads, so what reads a skip reads what the skip reads. Computing nodes that no other reads
    are joined; a ReLU and one or two linear layers without an activation between them follow. A skip that ends beside
    other readers of its node brings that node there, too, by a batch norm and a ReLU of its own; raw features are never
    brought there.

    ``unused``: hold what the published networks hold and never use: batch norms of skips and of what reads raw
    features, and ARMA's weights of steps after the first.
    """

    def __init__(
        self,
        links: Sequence[int],
        operations: Sequence[str],
        *,
        inputs: int,
        classes: int,
        hidden: int,
        heads: int = 4,
        post_layers: int = 1,
        dropout: float = 0.0,
        unused: bool = False,
        device: Device = None,
    ) -> None:
        super().__init__()
        self._operations = tuple(operations)
        self._sources, self._ends = traced(links, operations)
        self.layers = nn.ModuleDict()
        for node, source in self._sources.items():
            width = hidden if source else inputs
            name = operations[node - 1]
            self.layers[str(node)] = (
                Attention(width, hidden, heads, device) if name == "gat" else Layer(name, width, hidden, unused, device)
            )
        normalised = {node for node, source in self._sources.items() if source}
        normalised |= {end for end in self._ends if operations[end - 1] == SKIP}
        self.norms = nn.ModuleDict(
            {
                str(node): nn.BatchNorm1d(hidden, device=device)
                for node in range(1, len(links) + 1)
                if unused or node in normalised
            }
        )
        joined = len(self._ends) * hidden
        widths = [joined, *[hidden] * post_layers, classes]
        self.head = nn.Sequential(*(nn.Linear(a, b, device=device) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        matrices: dict[str, Tensor] = {}
        outputs = {0: self.dropout(features)}
        for node, source in self._sources.items():
            name = self._operations[node - 1]
            if name not in matrices:
                matrices[name] = MATRICES[name](adjacency)
            read = self._normalised(node, outputs[source]) if source else outputs[0]
            outputs[node] = self.layers[str(node)](read, matrices[name])
        ends = [
            outputs[node] if node == source else self._normalised(node, outputs[source])
            for node, source in self._ends.items()
        ]
        return self.head(torch.cat(ends, dim=2).relu())  # type: ignore[no-any-return]

    def _normalised(self, node: int, x: Tensor) -> Tensor:
        """Over all nodes of all graphs of the batch."""
        flat: Tensor = self.norms[str(node)](x.flatten(0, 1))
        return self.dropout(flat.view_as(x).relu())  # type: ignore[no-any-return]


def traced(links: Sequence[int], operations: Sequence[str]) -> tuple[dict[int, int], dict[int, int]]:
    """What is left of four computing nodes when skips hand on what they read.

    Gives, for each node that computes, the node that it reads (0: the raw features); and for each end, computing node
    or skip, the node whose output it brings: itself where that is not normalised.
    """
    sources: dict[int, int] = {}
    skips: list[tuple[int, int]] = []
    handed = [0]
    for node, (link, name) in enumerate(zip(links, operations, strict=True), 1):
        handed.append(handed[link] if name == SKIP else node)
        if name != SKIP:
            sources[node] = handed[link]
        elif node not in links:
            skips.append((node, handed[link]))
    read = set(sources.values())
    brought = [source for _, source in skips]
    ends = {node: source for node, source in skips if source and (source in read or brought.count(source) > 1)}
    ends |= {node: node for node in sources if node not in read and brought.count(node) < 2}
    return sources, dict(sorted(ends.items()))


class Layer(nn.Module):
    """(b, n, inputs) and a matrix of `MATRICES` (b, n, n) → (b, n, outputs): what was sent, and what a node was itself.

    - ``gcn`` (Kipf & Welling, ICLR 2017), ``gin`` (Xu et al., ICLR 2019, with one linear layer and ε = 0), ``fc``
      (nothing is sent): one weight for all.
    - ``cheb`` (Defferrard et al., NeurIPS 2016, two terms, largest eigenvalue 2), ``sage`` (Hamilton et al., NeurIPS
      2017, the mean), ``graph`` (k-GNN, Morris et al., AAAI 2019), ``arma`` (Bianchi et al., TPAMI 2021, one stack of
      one step, then a ReLU): other weights for itself.
    """

    def __init__(self, name: str, inputs: int, outputs: int, unused: bool = False, device: Device = None) -> None:
        super().__init__()
        self._name = name
        self.sent = nn.Linear(inputs, outputs, device=device)
        self.own = nn.Linear(inputs, outputs, bias=False, device=device) if name in _TWO else None
        self.unused = nn.Linear(outputs, outputs, bias=False, device=device) if unused and name == "arma" else None

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.sent.weight)
        y = (y if self._name == "fc" else matrix @ y) + self.sent.bias
        if self.own is not None:
            y = y + self.own(x)
        return y.relu() if self._name == "arma" else y


class Attention(nn.Module):
    """``gat`` (Veličković et al., ICLR 2018): heads side by side, each a mean weighted by attention.

    (b, n, inputs) and adjacency (b, n, n), of which only zeros are told from others → (b, n, outputs).
    """

    def __init__(self, inputs: int, outputs: int, heads: int, device: Device = None) -> None:
        super().__init__()
        self.sent = nn.Linear(inputs, outputs, device=device)
        # Per head: how much a node asks for, and how much it offers.
        self.scores = nn.ModuleList(nn.Linear(outputs // heads, 2, bias=False, device=device) for _ in range(heads))

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.sent.weight)
        parts = y.chunk(len(self.scores), dim=2)
        scores = torch.stack([score(part) for score, part in zip(self.scores, parts, strict=True)], dim=1)
        asked, offered = scores.unsqueeze(3).unbind(4)  # (b, heads, n, 1) each
        weights = nn.functional.leaky_relu(asked + offered.transpose(2, 3), _SLOPE)
        weights = weights.masked_fill(matrix.unsqueeze(1) == 0, -torch.inf).softmax(dim=3)
        return (weights @ torch.stack(parts, dim=1)).transpose(1, 2).flatten(2) + self.sent.bias


# ---------------------------------------------------------------------- how much of a neighbour is read


def _diagonal(adjacency: Tensor) -> Tensor:
    return torch.eye(adjacency.shape[1], dtype=adjacency.dtype, device=adjacency.device)


def _looped(adjacency: Tensor) -> Tensor:
    """With a loop of weight 1 at each node that has none."""
    return adjacency + _diagonal(adjacency) * (adjacency == 0)


def _symmetric(adjacency: Tensor) -> Tensor:
    """Divided by the roots of both nodes' degrees; nodes that read nothing stay alone."""
    degree = adjacency.sum(dim=2)
    scale = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
    return adjacency * scale.unsqueeze(2) * scale.unsqueeze(1)


def _mean(adjacency: Tensor) -> Tensor:
    count = (adjacency != 0).sum(dim=2, keepdim=True)
    return (adjacency != 0) / count.clamp(min=1).to(adjacency.dtype)


MATRICES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gat": _looped,
    "gcn": lambda adjacency: _symmetric(_looped(adjacency)),
    "gin": lambda adjacency: (adjacency != 0).to(adjacency.dtype) + _diagonal(adjacency),
    "cheb": lambda adjacency: -_symmetric(adjacency * (1 - _diagonal(adjacency))),
    "sage": _mean,
    "arma": _symmetric,
    "graph": lambda adjacency: adjacency,
    "fc": lambda adjacency: adjacency,
}
"""By operation, from the adjacency (b, n, n): how much of each node's features reaches each node."""
