"""The same work one architecture at a time, as libraries of search spaces do it: dicts, lists and plain loops.

An architecture is a dict, choice → option, as `SearchSpace.to_configs` gives it. What each loop gives is compared with
what the search space gives before anything is timed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from itertools import permutations
from typing import Any, Protocol

from search_spaces.networks.layout import divisible
from search_spaces.space import Choice
from search_spaces.structure import is_layer

Config = dict[str, Any]
Graph = tuple[list[str], list[list[int]]]
"""The label of each node, and which nodes feed it; in topological order."""


class Loop(Protocol):
    """What is particular to a space."""

    def draw(self, rng: random.Random) -> Config:
        """Any architecture."""

    def canonical(self, config: Config) -> Any:
        """JSON that is equal for two architectures if and only if they are the same."""

    def graph(self, config: Config) -> Graph:
        """The graph of `SearchSpace.graphs`."""

    def cost(self, config: Config) -> tuple[int, int]:
        """Parameters and MACs."""


# ---------------------------------------------------------------------- for every space


def sample(loop: Loop, count: int, rng: random.Random) -> dict[str, Config]:
    """Different architectures by their keys."""
    found: dict[str, Config] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        config = loop.draw(rng)
        found.setdefault(key(loop.canonical(config)), config)
    return found


def key(form: Any) -> str:
    return hashlib.blake2b(json.dumps(form, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def one_hot(config: Config, choices: Sequence[Choice]) -> list[float]:
    features = []
    for choice in choices:
        chosen = config.get(choice.name)
        for option in choice.options:
            features.append(1.0 if option == chosen else 0.0)
    return features


def structure(graph: Graph, all_labels: Sequence[str], layers: frozenset[str]) -> list[float]:
    """As `search_spaces.structure.structure`."""
    labels, feeders = graph
    counts = dict.fromkeys(all_labels, 0)
    read_input = edges = 0
    longest, shortest, most, fewest, ways, total = [], [], [], [], [], []
    for label, before in zip(labels, feeders, strict=True):
        own = int(label in layers)
        counts[label] += 1
        edges += len(before)
        read_input += 0 in before
        if not before:
            longest.append((0, own))
            shortest.append((0, own))
            most.append(own)
            fewest.append(own)
            ways.append(1)
            total.append(own)
            continue
        length, passed = max(longest[node] for node in before)
        longest.append((length + 1, passed + own))
        length, passed = min(shortest[node] for node in before)
        shortest.append((length + 1, passed + own))
        most.append(max(most[node] for node in before) + own)
        fewest.append(min(fewest[node] for node in before) + own)
        ways.append(sum(ways[node] for node in before))
        total.append(sum(total[node] for node in before) + own * ways[-1])
    count = sum(label in layers for label in labels)
    return [
        *counts.values(),
        len(labels),
        edges,
        read_input,
        len(feeders[-1]),
        math.log2(ways[-1]),
        longest[-1][0],
        shortest[-1][0],
        longest[-1][1],
        shortest[-1][1],
        most[-1],
        fewest[-1],
        total[-1] / ways[-1],
        count / max(most[-1], 1),
    ]


def layers(labels: Sequence[str]) -> frozenset[str]:
    return frozenset(filter(is_layer, labels))


# ---------------------------------------------------------------------- NAS-Bench-201


class NasBench201:
    """Cells of four nodes; the same if the expressions that they compute are."""

    EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

    def draw(self, rng: random.Random) -> Config:
        return {f"e{start}{end}": rng.choice(self.OPERATIONS) for start, end in self.EDGES}

    def canonical(self, config: Config) -> Any:
        # A convolution that is used twice is not two convolutions: only that on the first edge can be.
        shared = self._expression(config, "shared")
        return shared if "+".join(shared).count("shared") > 1 else self._expression(config, "")

    def _expression(self, config: Config, first: str) -> list[str]:
        terms: dict[int, list[str]] = {0: ["x"], 1: [], 2: [], 3: []}
        for start, end in self.EDGES:
            operation, inputs = config[f"e{start}{end}"], sorted(terms[start])
            if operation == "none" or not inputs:
                continue
            if operation == "skip_connect":
                terms[end] += inputs
            else:
                name = first + operation if end == 1 and "conv" in operation else operation
                terms[end].append(f"{name}({'+'.join(inputs)})")
        return sorted(terms[3])

    def graph(self, config: Config) -> Graph:
        there = [edge for edge in self.EDGES if config[f"e{edge[0]}{edge[1]}"] != "none"]
        fed, used = {0}, {3}
        for start, end in there:
            if start in fed:
                fed.add(end)
        for start, end in reversed(there):
            if end in used:
                used.add(start)
        live = [(start, end) for start, end in there if start in fed and end in used]
        if not live:
            return ["input", "none", "output"], [[], [0], [1]]
        labels = ["input"]
        feeders: list[list[int]] = [[]]
        into: dict[int, list[int]] = {0: [0], 1: [], 2: [], 3: []}
        for start, end in live:
            into[end].append(len(labels))
            labels.append(config[f"e{start}{end}"])
            feeders.append(list(into[start]))
        return [*labels, "output"], [*feeders, into[3]]

    def cost(self, config: Config) -> tuple[int, int]:
        params, macs = 3 * 9 * 16 + 2 * 16, 3 * 9 * 16 * 32 * 32
        width, side = 16, 32
        for stage in range(3):
            if stage:
                width, side = 2 * width, side // 2
                weights = 9 * width * width // 2 + 9 * width * width + width * width // 2
                params += weights + 4 * width
                macs += weights * side * side
            for _ in range(5):
                for start, end in self.EDGES:
                    operation = config[f"e{start}{end}"]
                    if operation in ("nor_conv_1x1", "nor_conv_3x3"):
                        weights = width * width * (9 if operation == "nor_conv_3x3" else 1)
                        params += weights + 2 * width
                        macs += weights * side * side
        return params + 2 * width + width * 10 + 10, macs + width * 10


# ---------------------------------------------------------------------- Once-for-All's MobileNetV3


class MobileNetV3:
    """Five stages of two to four blocks; the same if they are without what the depths cut off."""

    RESOLUTIONS, KERNELS, EXPANSIONS, DEPTHS = tuple(range(128, 225, 4)), (3, 5, 7), (3, 4, 6), (2, 3, 4)
    WIDTHS, STRIDES = (24, 40, 80, 112, 160), (2, 2, 2, 1, 2)
    SQUEEZES = (False, True, False, True, True)

    def draw(self, rng: random.Random) -> Config:
        config: Config = {"resolution": rng.choice(self.RESOLUTIONS)}
        for stage in range(1, 6):
            config[f"stage{stage}.depth"] = rng.choice(self.DEPTHS)
            for block in range(1, 5):
                config[f"stage{stage}.block{block}.kernel"] = rng.choice(self.KERNELS)
                config[f"stage{stage}.block{block}.expand"] = rng.choice(self.EXPANSIONS)
        return config

    def canonical(self, config: Config) -> Any:
        form = {"resolution": config["resolution"]}
        for stage in range(1, 6):
            depth = form[f"stage{stage}.depth"] = config[f"stage{stage}.depth"]
            for block in range(1, depth + 1):
                for kind in ("kernel", "expand"):
                    form[f"stage{stage}.block{block}.{kind}"] = config[f"stage{stage}.block{block}.{kind}"]
        return form

    def graph(self, config: Config) -> Graph:
        labels = [f"input_{config['resolution']}", "stem", "first"]
        # What a node reads: the last block that changes the shape, and all that were added to it.
        feeders = [[], [0], [1]]
        stream = [1, 2]
        for stage in range(1, 6):
            for block in range(1, config[f"stage{stage}.depth"] + 1):
                name = f"stage{stage}.block{block}"
                feeders.append(list(stream))
                stream = [*(stream if block > 1 else []), len(labels)]
                labels.append(f"mb{config[f'{name}.expand']}_k{config[f'{name}.kernel']}")
        return [*labels, "output"], [*feeders, stream]

    def cost(self, config: Config) -> tuple[int, int]:
        side = -(-config["resolution"] // 2)
        params, macs = 3 * 9 * 16 + 32, 3 * 9 * 16 * side * side
        params += 16 * 9 + 16 * 16 + 4 * 16
        macs += side * side * (16 * 9 + 16 * 16)
        inputs = 16
        for stage, (outputs, stride, squeezes) in enumerate(
            zip(self.WIDTHS, self.STRIDES, self.SQUEEZES, strict=True), start=1
        ):
            for block in range(1, config[f"stage{stage}.depth"] + 1):
                taps = config[f"stage{stage}.block{block}.kernel"] ** 2
                middle = divisible(inputs * config[f"stage{stage}.block{block}.expand"])
                after = -(-side // stride) if block == 1 else side
                params += inputs * middle + middle * taps + middle * outputs + 4 * middle + 2 * outputs
                macs += side * side * inputs * middle + after * after * (middle * taps + middle * outputs)
                if squeezes:
                    squeezed = divisible(middle // 4)
                    params += 2 * middle * squeezed + squeezed + middle
                    macs += 2 * middle * squeezed
                inputs, side = outputs, after
        params += 160 * 960 + 2 * 960 + 960 * 1280 + 1280 * 1000 + 1000
        return params, macs + side * side * 160 * 960 + 960 * 1280 + 1280 * 1000


# ---------------------------------------------------------------------- DARTS


class Darts:
    """Two cells of four nodes that read two earlier ones each; the same if they are up to the names of nodes."""

    OPERATIONS = (
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )

    def draw(self, rng: random.Random) -> Config:
        config: Config = {}
        for cell in ("normal", "reduce"):
            for node in range(2, 6):
                if node > 2:
                    low, high = sorted(rng.sample(range(node), 2))
                    config[f"{cell}.node{node}.inputs"] = f"{low}_{high}"
                config[f"{cell}.node{node}.first"] = rng.choice(self.OPERATIONS)
                config[f"{cell}.node{node}.second"] = rng.choice(self.OPERATIONS)
        return config

    def _edges(self, config: Config, cell: str) -> list[list[tuple[int, str]]]:
        """What each node reads, through which operation."""
        nodes = []
        for node in range(2, 6):
            name = f"{cell}.node{node}"
            low, high = config[f"{name}.inputs"].split("_") if node > 2 else ("0", "1")
            nodes.append([(int(low), config[f"{name}.first"]), (int(high), config[f"{name}.second"])])
        return nodes

    def canonical(self, config: Config) -> Any:
        form = []
        for cell in ("normal", "reduce"):
            nodes = self._edges(config, cell)
            best = None
            for order in permutations(range(4)):
                names = [0, 1, *(2 + order.index(node) for node in range(4))]
                renamed = [sorted((names[source], op) for source, op in nodes[node]) for node in order]
                if all(pair[1][0] < 2 + place for place, pair in enumerate(renamed)):
                    best = renamed if best is None else min(best, renamed)
            form.append(best)
        return form

    def graph(self, config: Config) -> Graph:
        labels = ["input"]
        feeders: list[list[int]] = [[]]
        outputs = [[0], [0]]
        for cell in ("normal", "reduce"):
            sources = []
            for back, output in zip((2, 1), outputs, strict=True):
                sources.append([len(labels)])
                labels.append(f"{cell}.c_{{k-{back}}}")
                feeders.append(output)
            for pair in self._edges(config, cell):
                node = []
                for source, operation in pair:
                    node.append(len(labels))
                    labels.append(operation)
                    feeders.append(list(sources[source]))
                sources.append(node)
            outputs = [[0], [node for pair in sources[2:] for node in pair]]
        return [*labels, "output"], [*feeders, outputs[1]]

    def cost(self, config: Config) -> tuple[int, int]:
        width, side = 32, 32
        params, macs = 3 * 9 * 96 + 2 * 96, 3 * 9 * 96 * side * side
        before, previous = 96, 96
        cells = {cell: self._edges(config, cell) for cell in ("normal", "reduce")}
        for layer in range(8):
            reduction = layer in (8 // 3, 2 * 8 // 3)
            if reduction:
                width *= 2
            for channels in (before, previous):
                params += channels * width + 2 * width
                macs += channels * width * side * side
            before, previous = previous, 4 * width
            if reduction:
                side //= 2
            for pair in cells["reduce" if reduction else "normal"]:
                for source, operation in pair:
                    weights = norms = 0
                    if "conv" in operation:
                        times = 2 if operation.startswith("sep") else 1
                        weights = times * (width * width + int(operation[-1]) ** 2 * width)
                        norms = times * 2 * width
                    elif operation == "skip_connect" and reduction and source < 2:
                        weights, norms = width * width, 2 * width
                    params += weights + norms
                    macs += weights * side * side
        return params + previous * 10 + 10, macs + previous * 10
