"""NAS-Bench-Graph: the published rows, which networks are the same, and what its layers compute."""

from __future__ import annotations

import math
import re
import zlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from search_spaces.nasbench_graph import LINKS, OPERATIONS, NasBenchGraph
from search_spaces.networks.nasbench_graph import MATRICES, Attention, Layer
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from tests.shared import SHARED, needs_shared

Floats = NDArray[np.float64]

SMALL: dict[str, Any] = {"features": 3, "classes": 2, "hidden": 4, "heads": 2, "nodes": 5, "post_layers": 0}
PUBLISHED_LINKS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
TABLES: dict[str, dict[str, Any]] = {"cora": {}, "arxiv": {"features": 128, "classes": 40, "hidden": 128}}


# ---------------------------------------------------------------------- the published table


@needs_shared
@pytest.mark.parametrize("name", list(TABLES))
def test_published_rows_are_the_canonical_ones_with_their_parameters(name: str) -> None:
    columns = pq.read_table(SHARED / "data" / "nas_bench_graph" / f"{name}.parquet").to_pydict()
    links = [link.replace("-", ", ") for link in columns["link"]]
    operations = zip(*(columns[f"op{node}"] for node in range(1, 5)), strict=True)
    texts = [f"[{link}], {list(names)}" for link, names in zip(links, operations, strict=True)]
    space = NasBenchGraph(**TABLES[name], unused=True)
    genes = space.from_notation(texts)
    assert space.notation(genes) == texts
    np.testing.assert_array_equal(space.canonical(genes), genes)
    assert len(set(space.keys(genes))) == len(texts) == space.cardinality == 26_206
    # Millions, in single precision.
    published = np.array(columns["params_m"], dtype=np.float32)
    np.testing.assert_array_equal(np.float32(space.cost(genes)["params"] / 1e6), published)


def test_what_published_networks_never_use_is_told_apart() -> None:
    used, published = NasBenchGraph(**SMALL), NasBenchGraph(**SMALL, unused=True)
    texts = ["[0, 1, 1, 2], ['skip', 'arma', 'arma', 'gcn']", "[0, 0, 1, 1], ['gat', 'fc', 'skip', 'sage']"]
    genes = used.from_notation(texts)
    more = published.cost(genes)["params"] - used.cost(genes)["params"]
    # Batch norms of four features: of the skip and of both that read raw features, of both first nodes. ARMA: 4 x 4.
    assert more.tolist() == [3 * 2 * 4 + 2 * 4 * 4, 2 * 2 * 4]
    for row, extra in zip(genes, more, strict=True):
        one, other = used.build(row).eval(), published.build(row).eval()
        assert sum(p.numel() for p in other.parameters()) - sum(p.numel() for p in one.parameters()) == extra
        missing, unexpected = other.load_state_dict(one.state_dict(), strict=False)
        assert missing
        assert not unexpected
        read = [torch.from_numpy(each) for each in used.inputs(row, 2, np.random.default_rng(0))]
        torch.testing.assert_close(one(*read), other(*read))


# ---------------------------------------------------------------------- which networks are the same


def test_nine_structures_and_the_published_counts() -> None:
    space = NasBenchGraph()
    rows = space._left()
    plain = rows[(rows[:, 3:] != OPERATIONS.index("skip")).all(axis=1)]
    assert {"0" + "".join(map(str, links)) for links in plain[:, :3].tolist()} == set(PUBLISHED_LINKS)
    assert {"0" + "".join(map(str, links)) for links in rows[:, :3].tolist()} == set(PUBLISHED_LINKS)
    assert len(LINKS) == 24
    assert NasBenchGraph(identity="row").cardinality == 24 * (9**4 - 1)
    assert NasBenchGraph(operations=["gcn", "sage", "arma", "fc", "skip"]).cardinality == 2_021
    assert NasBenchGraph(operations=["gcn"]).cardinality == 9


@pytest.mark.parametrize(
    "same",
    [
        # Other names for the nodes.
        ["Arch([0, 1, 2, 1], ['gcn', 'gin', 'fc', 'cheb'])", '[0,1,1,2], ["gcn", "gin", "cheb", "fc"]'],
        # A skip that hands on stands anywhere on its path, a last one that alone reads its node too.
        ["[0, 1, 2, 3], ['gcn', 'skip', 'gat', 'fc']", "[0, 1, 2, 3], ['gcn', 'gat', 'fc', 'skip']"],
        # Raw features are not brought to the output.
        ["[0, 0, 2, 2], ['skip', 'gcn', 'gat', 'fc']", "[0, 1, 2, 2], ['skip', 'gcn', 'gat', 'fc']"],
    ],
)
def test_networks_that_are_the_same(same: list[str]) -> None:
    space = NasBenchGraph()
    one, other = space.keys(space.from_notation(same))
    assert one == other
    rows = NasBenchGraph(identity="row")
    assert len(set(rows.keys(rows.from_notation(same)))) == 2


def test_networks_that_are_not() -> None:
    space = NasBenchGraph()
    texts = [
        "[0, 1, 2, 3], ['skip', 'skip', 'gcn', 'gat']",
        # What a skip brings to the output beside another reader, once or twice.
        "[0, 1, 2, 2], ['skip', 'gcn', 'gat', 'skip']",
        "[0, 1, 1, 1], ['gcn', 'gat', 'skip', 'skip']",
        # Two layers of one kind, and one that is read twice.
        "[0, 0, 1, 2], ['gcn', 'gcn', 'gat', 'gat']",
        "[0, 1, 2, 2], ['skip', 'gcn', 'gat', 'gat']",
    ]
    assert len(set(space.keys(space.from_notation(texts)))) == len(texts)


def test_same_networks_and_only_those_compute_the_same() -> None:
    """Weights depend on the kind of layer alone, and joined nodes are summed: names and order have no effect.

    Then only a layer used twice looks like two layers of one kind: the number of layers tells them apart.
    """
    space = NasBenchGraph(**SMALL | {"operations": ["gcn", "sage", "skip"]}, identity="row")
    genes = space.sample(350, np.random.default_rng(3))
    twin = NasBenchGraph(**SMALL | {"operations": ["gcn", "sage", "skip"]})
    read = [torch.from_numpy(each).double() for each in space.inputs(genes[0], 1, np.random.default_rng(1))]
    seen: dict[str, set[tuple[str, int]]] = {}
    params = space.cost(genes)["params"].tolist()
    for row, key, counted in zip(genes, twin.keys(genes), params, strict=True):
        network = space.build(row).double().eval()
        assert sum(each.numel() for each in network.parameters()) == counted
        _by_kind(network)
        with torch.no_grad():
            print_ = ",".join(f"{each:.9f}" for each in network(*read).flatten().tolist())
        seen.setdefault(key, set()).add((print_, len(network.layers)))  # type: ignore[arg-type]
    prints = [each for found in seen.values() for each in found]
    assert 50 < len(seen) < 250
    assert all(len(found) == 1 for found in seen.values()), "rows of a class compute one function"
    assert len(set(prints)) == len(prints), "classes compute different ones"


def _by_kind(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, value in network.state_dict().items():
            part, number, *rest = name.split(".")
            kind = network._operations[int(number) - 1] if part == "layers" else part  # type: ignore[index]
            if part == "head" and rest == ["weight"]:
                block = _drawn("head", (value.shape[0], 4))
                value.copy_(block.repeat(1, value.shape[1] // 4))
            elif value.is_floating_point():
                value.copy_(_drawn(f"{kind} {rest}", tuple(value.shape)).abs() + 0.5 * ("var" in name))


def _drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape))


# ---------------------------------------------------------------------- what layers compute


@pytest.fixture
def graph() -> tuple[Floats, Floats]:
    """Features and weights: directed, a loop at node 2, node 4 reads one other, node 5 none."""
    rng = np.random.default_rng(4)
    adjacency = rng.random((6, 6)) * (rng.random((6, 6)) < 0.5)
    np.fill_diagonal(adjacency, 0)
    adjacency[2, 2] = 0.7
    adjacency[4:] = 0
    adjacency[4, 1] = 0.4
    return rng.standard_normal((6, 3)), adjacency


def _sent(name: str, adjacency: Floats, reader: int, read: int) -> float:
    """By definition, node by node: the share of ``read``'s features that reaches ``reader``."""

    def weight(i: int, j: int) -> float:
        if i == j and name == "gcn":
            return float(adjacency[i, j] or 1)
        return 0.0 if i == j and name == "cheb" else float(adjacency[i, j])

    def degree(i: int) -> float:
        return sum(weight(i, j) for j in range(len(adjacency)))

    there = float(adjacency[reader, read] > 0)
    if name in ("gcn", "arma", "cheb"):
        if weight(reader, read) == 0 or degree(reader) == 0 or degree(read) == 0:
            return 0.0
        return (-1 if name == "cheb" else 1) * weight(reader, read) / math.sqrt(degree(reader) * degree(read))
    if name == "sage":
        return there / max(int((adjacency[reader] > 0).sum()), 1)
    itself = float(reader == read)
    return {"gin": there + itself, "graph": weight(reader, read), "fc": itself}[name]


@pytest.mark.parametrize("name", ["gcn", "gin", "cheb", "sage", "arma", "graph", "fc"])
def test_layers_send_what_their_papers_say(name: str, graph: tuple[Floats, Floats]) -> None:
    x, adjacency = graph
    layer = Layer(name, 3, 4).double()
    weight, bias = layer.sent.weight.detach().numpy(), layer.sent.bias.detach().numpy()
    own = np.zeros((4, 3)) if layer.own is None else layer.own.weight.detach().numpy()
    expected = np.zeros((6, 4))
    for i in range(6):
        read = sum(_sent(name, adjacency, i, j) * x[j] for j in range(6))
        expected[i] = weight @ read + own @ x[i] + bias
    if name == "arma":
        expected = np.maximum(expected, 0)
    a = torch.from_numpy(adjacency)[None]
    computed = layer(torch.from_numpy(x)[None], MATRICES[name](a)).detach().numpy()[0]
    np.testing.assert_allclose(computed, expected, atol=1e-12)


def test_attention_weighs_those_that_are_read_and_the_node_itself(graph: tuple[Floats, Floats]) -> None:
    x, adjacency = graph
    layer = Attention(3, 4, 2).double()
    features = x @ layer.sent.weight.detach().numpy().T
    expected = np.zeros((6, 4))
    for head, scorer in enumerate(layer.scores):
        columns = slice(2 * head, 2 * head + 2)
        asks, offers = next(scorer.parameters()).detach().numpy()
        for i in range(6):
            read = [j for j in range(6) if j == i or adjacency[i, j]]
            raw = [features[i, columns] @ asks + features[j, columns] @ offers for j in read]
            scores = np.exp([each if each > 0 else 0.2 * each for each in raw])
            expected[i, columns] = (scores / scores.sum()) @ features[read, columns]
    expected += layer.sent.bias.detach().numpy()
    a = torch.from_numpy(adjacency)[None]
    computed = layer(torch.from_numpy(x)[None], MATRICES["gat"](a)).detach().numpy()[0]
    np.testing.assert_allclose(computed, expected, atol=1e-12)


def test_networks_do_not_care_for_the_order_or_number_of_nodes() -> None:
    space = NasBenchGraph(**SMALL)
    rng = np.random.default_rng(0)
    for row in space.sample(5, rng):
        network = space.build(row).double().eval()
        x, a = (torch.from_numpy(each).double() for each in NasBenchGraph(**SMALL | {"nodes": 9}).inputs(row, 2, rng))
        order = torch.from_numpy(rng.permutation(9))
        with torch.no_grad():
            torch.testing.assert_close(network(x, a)[:, order], network(x[:, order], a[:, order][:, :, order]))


def test_dropout_is_a_matter_of_training() -> None:
    space = NasBenchGraph(**SMALL, dropout=0.5)
    row = space.sample(1, np.random.default_rng(0))[0]
    network = space.build(row)
    read = [torch.from_numpy(each) for each in space.inputs(row, 1, np.random.default_rng(0))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(network(*read), network(*read))
    assert torch.equal(network.eval()(*read), network(*read))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("[1, 0, 0, 0], ['gcn', 'gcn', 'gcn', 'gcn']", "link1", "raw features"),
        ("[0, 0, 3, 0], ['gcn', 'gcn', 'gcn', 'gcn']", "link3", "reads 3, options are [0, 1, 2]"),
        ("[0, 0, 0, -1], ['gcn', 'gcn', 'gcn', 'gcn']", "link4", "reads -1"),
        ("[0, 0, 0, 0], ['gcn', 'gcn', 'mlp', 'gcn']", "op3", "no such operation 'mlp'"),
        ("[0, 1, 2, 3], ['skip', 'skip', 'skip', 'skip']", "operations", "compute nothing"),
        ("[0, 0, 0], ['gcn', 'gcn', 'gcn']", "notation", "must read as [0, 0, 0, 0], ['gat'"),
        ("Arch([0, 0, 0, 0], ['gcn', 'gcn', 'gcn', 'gcn']", "notation", "must read"),
    ],
)
def test_texts_are_refused_by_field(text: str, field: str, said: str) -> None:
    with pytest.raises(InvalidArchitecture, match=re.escape(said)) as refused:
        NasBenchGraph().from_notation(["[0, 0, 0, 0], ['gcn', 'gcn', 'gcn', 'gcn']", text])
    assert (refused.value.row, refused.value.field) == (1, field)


def test_four_skips_cannot_be_built() -> None:
    space = NasBenchGraph()
    genes: Genes = np.array([[0, 0, 0, 8, 8, 8, 8], [0, 0, 0, 8, 8, 8, 1]], dtype=np.int8)
    assert space.valid(genes).tolist() == [False, True]
    with pytest.raises(InvalidArchitecture, match="row 0: operations: four skips compute nothing"):
        space.check(genes)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"operations": ["skip"]}, "operations"),
        ({"operations": ["gcn", "mlp"]}, "operations"),
        ({"operations": ["gcn", "gcn"]}, "operations"),
        ({"hidden": 10, "heads": 4}, "hidden"),
        ({"post_layers": 2}, "post_layers"),
        ({"dropout": 1}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": ""}, "dropout"),
        ({"dropout": False}, "dropout"),
        ({"nodes": 1}, "nodes"),
        ({"layers": 4}, "layers"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        NasBenchGraph(**options)
    assert refused.value.field == field


def test_no_dropout_is_one_option() -> None:
    assert NasBenchGraph(dropout=0.0).digest == NasBenchGraph().digest


def test_it_reads_no_images_and_has_no_super_network() -> None:
    space = NasBenchGraph(**SMALL)
    row = space.extremes()[0]
    with pytest.raises(Unsupported, match="adjacency"):
        space.input_shape(row)
    with pytest.raises(Unsupported, match="table"):
        space.supernet()
