"""TransNAS-Bench-101: which cells compute the same, which chains there are, notation and networks."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces.cells import EDGES
from search_spaces.networks.transnas import Cell, FactorizedReduce, Network, of_blocks, of_cells
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, SearchSpace, Unsupported
from search_spaces.transnas_macro import TransNasMacro
from search_spaces.transnas_micro import OPERATIONS, TransNasMicro

MICRO, ROWS, MACRO = TransNasMicro(), TransNasMicro(identity="row"), TransNasMacro()
EVERY: Genes = np.array(list(itertools.product(range(4), repeat=6)), dtype=np.int8)


def cell(digits: str) -> Genes:
    """One row (1, 6)."""
    return np.array([[int(digit) for digit in digits]], dtype=np.int8)


def key(digits: str) -> str:
    return MICRO.keys(cell(digits))[0]


# ---------------------------------------------------------------------- which cells are the same


def test_there_are_1376_functions() -> None:
    canonical = MICRO.canonical(EVERY)
    assert len(np.unique(canonical, axis=0)) == MICRO.cardinality == 1_376
    assert (~canonical.any(axis=1)).sum() == 169
    assert ROWS.cardinality == len(np.unique(ROWS.canonical(EVERY), axis=0)) == 4_096


def test_a_class_is_built_as_its_cheapest_row() -> None:
    canonical = MICRO.canonical(EVERY)
    for metric, values in ROWS.cost(EVERY).items():
        least: dict[bytes, int] = {}
        for row, value in zip(canonical, values.tolist(), strict=True):
            least[row.tobytes()] = min(value, least.get(row.tobytes(), value))
        assert MICRO.cost(canonical)[metric].tolist() == [least[row.tobytes()] for row in canonical]
    # Nothing in it is dead: without any one of its operations it is another architecture.
    for edge in range(6):
        there = canonical[canonical[:, edge] > 0]
        without = there.copy()
        without[:, edge] = 0
        assert (MICRO.canonical(without) != there).any(axis=1).all()


def test_what_is_united_and_what_is_not() -> None:
    """Digits of the edges 01, 02, 12, 03, 13, 23."""
    alone = key("000300")
    assert key("300010") == key("030001") == alone, "skips that keep the shape are contracted, nodes have no names"
    assert key("120300") == alone, "what leads nowhere is dropped"
    assert key("002312") == alone, "what reads zeros is dropped"
    assert key("100030") != alone, "a skip from the first node has weights where the shape changes"
    assert key("100010") == key("000100"), "and it is the same whatever comes behind it"
    assert key("000200") != alone
    twice = key("301011")
    assert twice != alone, "x + x is not x"
    assert key("330011") != twice, "one convolution used twice is not two convolutions"
    assert key("101011") != key("110011"), "neither is a skip with weights"


KINDS = [(1, True), (2, True), (3, True), (2, False), (3, False)]
"""(operation, whether it reads the first node) of operations with weights in a cell that changes the shape."""


def weighted(made: Cell) -> list[tuple[Any, ...] | None]:
    """For each edge what its weights can be given to: the same operation on the same shapes."""
    result: list[tuple[Any, ...] | None] = []
    for edge in made.edges:
        convolution = next((part for part in edge.modules() if isinstance(part, nn.Conv2d)), None)
        shapes = tuple(tuple(each.shape) for each in edge.parameters())
        result.append((type(edge), shapes, convolution.stride) if convolution else None)
    return result


def injections(row: Cell, canonical: Cell) -> Iterator[dict[int, int]]:
    """All ways to give each operation of the canonical cell the weights of another one of the row's cell."""
    needs, gives = weighted(canonical), weighted(row)
    needed = [edge for edge, kind in enumerate(needs) if kind]
    for chosen in itertools.permutations([edge for edge, kind in enumerate(gives) if kind], len(needed)):
        if all(needs[a] == gives[b] for a, b in zip(needed, chosen, strict=True)):
            yield dict(zip(needed, chosen, strict=True))


def given(made: Cell, other: Cell, matched: dict[int, int]) -> Cell:
    """The cell with the weights of the other one's edges."""
    for edge, source in matched.items():
        made.edges[edge].load_state_dict(other.edges[source].state_dict())
    return made


@pytest.mark.parametrize(("outputs", "stride", "count"), [(3, 1, 40), (4, 2, 40), (4, 1, 10), (3, 2, 10)])
def test_rows_of_a_class_compute_the_same(outputs: int, stride: int, count: int) -> None:
    """With any weights, offsets of batch norms included, for some way to match them; in training mode."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    canonical = MICRO.canonical(EVERY)
    merged = np.flatnonzero((canonical != EVERY).any(axis=1))
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    for index in rng.choice(merged, count, replace=False):
        row, other = ([OPERATIONS[gene] for gene in genes[index]] for genes in (EVERY, canonical))
        one, stands_for = Cell(row, 3, outputs, stride).double(), Cell(other, 3, outputs, stride).double()
        with torch.no_grad():
            for weight in one.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            expected = one(images)
            same = (
                torch.allclose(given(stands_for, one, matched)(images), expected, rtol=1e-9, atol=1e-9)
                for matched in injections(one, stands_for)
            )
            assert any(same), MICRO.notation(np.stack([EVERY[index], canonical[index]]))


def test_different_classes_compute_differently() -> None:
    """One cell of each class, of those whose weights can be matched in one way only where the shape changes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    canonical = EVERY[(MICRO.canonical(EVERY) == EVERY).all(axis=1)]
    # An operation and whether it reads the first node make a kind; there, a skip is one with weights.
    first = np.array([start == 0 for start, _ in EDGES])
    kinds = [((canonical == gene) & (first == there)).sum(axis=1) for gene, there in KINDS]
    single = canonical[(np.stack(kinds) < 2).all(axis=0)]
    weights: dict[tuple[int, bool], dict[str, Tensor]] = {kind: {} for kind in KINDS}
    outputs = set()
    for row in single:
        made = Cell([OPERATIONS[gene] for gene in row], 3, 4, 2).double()
        with torch.no_grad():
            for edge, kind in zip(made.edges, zip(row.tolist(), first.tolist(), strict=True), strict=True):
                for name, value in edge.named_parameters():
                    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                    value.copy_(weights[kind].setdefault(name, drawn))
            outputs.add(tuple(np.round(made(images).flatten().tolist(), 9)))
    assert len(outputs) == len(single) > 200


def test_keys_of_all_rows_never_change() -> None:
    """What is stored is found by them: another row standing for a class would lose its measurements."""
    macro = MACRO.sample(4_000, np.random.default_rng(0))
    for space, rows, expected in (
        (MICRO, EVERY, "76c10b57c66189f8cd56d0c1053af9433efd3cce7056d0c0cef2e7f2d32fd6d2"),
        (MACRO, macro[np.lexsort(macro.T)], "7f800ec27f0a77404824149c7fa72c95ae9bc6b8501e4ff0316baf64f6e64aa3"),
    ):
        assert hashlib.sha256("".join(space.keys(rows)).encode()).hexdigest() == expected
    assert (MICRO.digest, ROWS.digest, MACRO.digest) == (
        "6d3be44cc4c1441024fb6a96e87daa9d",
        "16edb94199a38ae1fdcb417f8722e163",
        "6d41bb4de26dfd5b7ddcc393ccf0ad6a",
    )


# ---------------------------------------------------------------------- which chains there are


def test_there_are_3256_chains() -> None:
    """One to four halvings and one to three doublings, in four to six modules: that is what the table holds."""
    allowed = {
        "".join(codes)
        for length in (4, 5, 6)
        for codes in itertools.product("1234", repeat=length)
        if 1 <= sum(code in "34" for code in codes) <= 4 and 1 <= sum(code in "24" for code in codes) <= 3
    }
    assert MACRO.cardinality == len(allowed) == 3_256
    everything = MACRO.notation(MACRO.sample(5_000, np.random.default_rng(0)))
    assert set(everything) == allowed
    assert [sum(len(text) == length for text in everything) for length in (4, 5, 6)] == [210, 750, 2_296]


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("1111", "modules", "halves the resolution 0 times, allowed are 1 to 4"),
        ("333324", "modules", "halves the resolution 5 times"),
        ("11133", "modules", "doubles the channels 0 times, allowed are 1 to 3"),
        ("22224", "modules", "doubles the channels 5 times"),
        ("444", "notation", "4 to 6 digits 1 to 4"),
        ("4141414", "notation", "4 to 6 digits"),
        ("41514", "notation", "41514"),
        ("32-41414-basic", "notation", "networks of 32 channels, this space has 64"),
        ("64-41414", "notation", "must read"),
        ("64-41414-1_02_333", "notation", "must read"),
    ],
)
def test_other_chains_are_refused(text: str, field: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message) as refused:
        MACRO.from_notation(["41414", text])
    assert (refused.value.row, refused.value.field) == (1, field)


def test_a_chain_has_no_gap() -> None:
    config = MACRO.to_configs(MACRO.from_notation(["4141"]))[0]
    assert config == {"module1": 4, "module2": 1, "module3": 4, "module4": 1, "module5": 0, "module6": 0}
    with pytest.raises(InvalidArchitecture, match="is 3, but there is no module5") as refused:
        MACRO.from_configs([config, config | {"module6": 3}])
    assert (refused.value.row, refused.value.field) == (1, "module6")


def test_restrictions_of_chains() -> None:
    short = MACRO.restrict({"module5": [0]})
    assert short.cardinality == len(short.sample(1_000, np.random.default_rng(0))) == 210
    with pytest.raises(InvalidArchitecture, match="restricted") as refused:
        short.check(MACRO.from_notation(["4141", "41414"]))
    assert (refused.value.row, refused.value.field) == (1, "module5")
    plain = MACRO.restrict({f"module{place}": [1] for place in range(1, 7)})
    assert plain.cardinality == 0
    assert len(plain.sample(5, np.random.default_rng(0))) == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        plain.extremes()


def test_a_restriction_of_cells_binds_what_is_built() -> None:
    confined = MICRO.restrict({"e02": ["none"], "e03": ["nor_conv_3x3"]})
    assert confined.valid(np.concatenate([cell("020300"), cell("020302")])).tolist() == [True, False]
    impossible = MICRO.restrict({"e01": ["none"], "e12": ["nor_conv_1x1"]})
    assert impossible.cardinality == 0
    with pytest.raises(InvalidSpace, match="no architecture"):
        impossible.extremes()


# ---------------------------------------------------------------------- options, notation, networks, graphs


@pytest.mark.parametrize("text", ["3-0-1-0-2-4", "3-0-1-0-2", "301023", "64-41414-3_01_02", "64-41414-basic"])
def test_other_cells_are_refused(text: str) -> None:
    with pytest.raises(InvalidArchitecture, match="must read a-b-c-d-e-f or 64-41414-a_bc_def") as refused:
        MICRO.from_configs(["3-0-1-0-2-3", text])
    assert (refused.value.row, refused.value.field) == (1, "notation")


def test_cells_of_other_networks_are_refused() -> None:
    text = "32-4141-3_01_023"
    assert TransNasMicro(channels=32, skeleton="4141").from_notation([text]).tolist() == [[3, 0, 1, 0, 2, 3]]
    with pytest.raises(InvalidArchitecture, match="is of networks 32-4141, this space has 64-41414"):
        MICRO.from_notation([text])


BAD: list[tuple[Callable[..., SearchSpace], dict[str, Any], str]] = [
    *((plugin, {"no_such": 1}, "no_such") for plugin in (TransNasMicro, TransNasMacro)),
    *((plugin, {"classes": 0}, "classes") for plugin in (TransNasMicro, TransNasMacro)),
    *((plugin, {"resolution": 2.0}, "resolution") for plugin in (TransNasMicro, TransNasMacro)),
    *((plugin, {"channels": 1}, "channels") for plugin in (TransNasMicro, TransNasMacro)),
    *((plugin, {"identity": "cell"}, "identity") for plugin in (TransNasMicro, TransNasMacro)),
    (TransNasMicro, {"cells": 0}, "cells"),
    (TransNasMicro, {"skeleton": 41414}, "skeleton"),
    (TransNasMicro, {"skeleton": ""}, "skeleton"),
    (TransNasMicro, {"skeleton": "450"}, "skeleton"),
    (TransNasMicro, {"skeleton": "2222222"}, "skeleton"),
    (TransNasMacro, {"blocks": True}, "blocks"),
]


@pytest.mark.parametrize(("plugin", "options", "field"), BAD)
def test_bad_options_are_refused_by_field(
    plugin: Callable[..., SearchSpace], options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidSpace) as refused:
        plugin(**options)
    assert refused.value.field == field


@pytest.mark.parametrize("space", [MICRO, MACRO], ids=["micro", "macro"])
def test_options_are_complete_and_json(space: SearchSpace) -> None:
    stored = json.loads(json.dumps(space.options))
    assert type(space)(**stored).digest == space.digest
    with pytest.raises(Unsupported, match="no super-network"):
        space.supernet()


SIZES = {"in_channels": 3, "classes": 100, "channels": 64, "blocks": 2}


def counted(network: Network, resolution: int) -> dict[str, int]:
    """Parameters, and MACs from the shapes that pass through the network."""
    total = 0

    def count(part: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(part, nn.Conv2d | nn.Linear):
            total += part.weight.numel() * output[0, 0].numel()

    for part in network.modules():
        part.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, resolution, resolution))
    return {"params": params(network), "macs": total}


def params(network: Network) -> int:
    return sum(each.numel() for each in network.parameters())


def cost(space: SearchSpace, genes: Genes) -> dict[str, int]:
    return {metric: int(value) for metric, (value,) in space.cost(genes).items()}


def test_networks_cost_what_is_counted() -> None:
    """The published chain of modules: parameters at full size, MACs in narrow networks of small images."""
    narrow = {**SIZES, "channels": 4}
    small: SearchSpace = TransNasMicro(identity="row", channels=4, resolution=37)
    for digits in ("333333", "102231", "010203"):
        names, modules = [OPERATIONS[int(digit)] for digit in digits], [4, 1, 4, 1, 4]
        assert cost(ROWS, cell(digits))["params"] == params(of_cells(names, modules, device="meta", **SIZES))
        assert cost(small, cell(digits)) == counted(of_cells(names, modules, device=None, **narrow), 37)
    small = TransNasMacro(channels=4, resolution=37)
    for text in ("1124", "232143", "434121"):
        genes, modules = MACRO.from_notation([text]), [int(code) for code in text]
        assert cost(MACRO, genes)["params"] == params(of_blocks(modules, device="meta", **SIZES))
        assert cost(small, genes) == counted(of_blocks(modules, device=None, **narrow), 37)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_networks_have_the_published_names_and_shapes() -> None:
    names = [OPERATIONS[int(digit)] for digit in "102030"]
    found = shapes(of_cells(names, [4, 1, 4, 1, 4], "meta", **SIZES))
    assert found["stem.0.weight"] == (32, 3, 3, 3)
    assert found["stem.2.ops.1.weight"] == (64, 32, 3, 3)
    assert found["layer0.0.edges.0.convs.1.weight"] == (64, 64, 1, 1)
    assert found["layer0.0.edges.0.bn.weight"] == (128,)
    assert found["layer0.0.edges.2.ops.1.weight"] == (128, 128, 1, 1)
    assert found["layer4.1.edges.4.ops.1.weight"] == (512, 512, 3, 3)
    assert found["head.weight"] == (100, 512)
    assert not any(name.startswith("layer0.1.edges.0") for name in found), "a skip that keeps the shape has no weights"
    found = shapes(of_blocks([1, 2, 3, 4], "meta", **SIZES))
    assert found["layer0.0.conv_a.ops.1.weight"] == (64, 64, 3, 3)
    assert found["layer2.0.downsample.0.weight"] == (128, 128, 1, 1)
    assert found["layer3.1.conv_b.ops.2.weight"] == (256,)
    assert not any(name.startswith(("layer0.0.downsample", "layer3.1.downsample")) for name in found)


def test_a_cell_adds_what_its_edges_bring() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    skip, none = "skip_connect", "none"
    torch.testing.assert_close(Cell([skip, none, skip, skip, none, skip], 2, 2)(x), 2 * x)
    cut_off = Cell([none, none, "nor_conv_3x3", none, "nor_conv_1x1", skip], 2, 4, 2)
    with torch.no_grad():
        for weight in cut_off.parameters():
            weight.fill_(1.0)
        assert cut_off(x).shape == (1, 4, 2, 2)
        assert not cut_off(x).any(), "the offset of a batch norm behind no input does not count"


def test_a_skip_that_halves_reads_two_neighbouring_pixels() -> None:
    x: Tensor = torch.arange(25.0).reshape(1, 1, 5, 5) - 3
    reduce = FactorizedReduce(1, 2, 2).eval()
    with torch.no_grad():
        for convolution in reduce.convs:
            for weight in convolution.parameters():
                weight.fill_(1.0)
        found = reduce(x) * (1 + reduce.bn.eps) ** 0.5
    torch.testing.assert_close(found[0, 0], x[0, 0, ::2, ::2].relu())
    torch.testing.assert_close(found[0, 1, :2, :2], x[0, 0, 1::2, 1::2].relu())
    assert not found[0, 1, 2].any(), "beyond the edge there are zeros"


def drawn(space: SearchSpace, genes: Genes) -> tuple[Sequence[str], set[tuple[int, int]]]:
    graphs = space.graphs(genes)
    labels = [graphs.labels[operation] for operation in graphs.operations[0] if operation >= 0]
    return labels, {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}


def test_graphs() -> None:
    labels, edges = drawn(MICRO, cell("312003"))
    assert labels == ["input", OPERATIONS[3], OPERATIONS[1], OPERATIONS[2], OPERATIONS[3], "output"]
    assert edges == {(0, 1), (0, 2), (1, 3), (2, 4), (3, 4), (4, 5)}
    assert drawn(MICRO, cell("300003")) == (["input", "none", "output"], {(0, 1), (1, 2)})
    labels, edges = drawn(TransNasMacro(blocks=1), MACRO.from_notation(["12134"]))
    assert labels == ["input", "stem", "block", "double", "block", "halve", "double_halve", "output"]
    # Plain blocks let what they read flow past them.
    assert edges == {(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 5), (5, 6), (6, 7)}
    labels, _ = drawn(MACRO, MACRO.from_notation(["1124"]))
    assert labels[2:-1] == ["block"] * 4 + ["double", "block", "double_halve", "block"]


def test_networks_are_exported_for_batches_of_any_size() -> None:
    space = TransNasMicro(resolution=32, channels=4)
    row = space.from_notation(["0-1-0-2-0-3"])[0]
    network = space.build(row).eval()
    images = torch.zeros(2, *space.input_shape(row))
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    more = torch.randn(5, *space.input_shape(row), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), network(more))
