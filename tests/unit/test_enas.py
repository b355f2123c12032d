"""ENAS's macro space: published rows, networks against a plain evaluation of their text, costs, refusals."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.enas import OPERATIONS, Enas
from search_spaces.networks.enas import Halving
from search_spaces.space import InvalidArchitecture, InvalidSpace, Unsupported
from tests.shared import SHARED, needs_shared
from tests.spaces.enas import VARIANTS

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE = Enas()
THREE = Enas(**VARIANTS["tiny"])
SIX = Enas(resolution=8, channels=4, in_channels=1)
PLAIN = "[[0],[0,0],[0,0,0],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]"


# ---------------------------------------------------------------------- what is published


@needs_shared
def test_published_rows_are_read_and_written() -> None:
    texts = pq.read_table(SHARED / "data" / "enas_weight_sharing" / "archs6.parquet").to_pydict()["arch"]
    genes = SPACE.from_notation(texts)
    assert SPACE.notation(genes) == texts
    in_a_line = [re.sub(r"\D+", " ", text).strip() for text in texts[:1_000]]
    np.testing.assert_array_equal(SPACE.from_notation(in_a_line), genes[:1_000])
    np.testing.assert_array_equal(SPACE.from_notation([text.replace(",", ", ") for text in texts[:100]]), genes[:100])
    assert len(texts) == 10_010
    assert len(set(SPACE.keys(genes))) == len(set(texts)) == 10_008, "two lines are there twice"


def test_how_many_there_are() -> None:
    """Pham et al. give 6^L · 2^(L(L-1)/2), which is 1.6·10^29 for twelve layers."""
    assert SPACE.cardinality == 6**6 * 2**15 == 1_528_823_808
    assert Enas(layers=12).cardinality == 6**12 * 2**66
    assert f"{Enas(layers=12).cardinality:.1e}" == "1.6e+29"


def test_no_two_rows_are_united() -> None:
    rows = THREE._draw_rows(500, np.random.default_rng(0))
    np.testing.assert_array_equal(THREE.canonical(rows), rows)
    assert Enas(**VARIANTS["tiny"], identity="row").cardinality == THREE.cardinality == 6**3 * 2**3


# ---------------------------------------------------------------------- networks


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """With other weights, offsets of batch norms included; double."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return network


def evaluated(text: str, weights: Iterator[Tensor], images: Tensor) -> Tensor:
    """A network by its text alone, layer by layer; ``weights`` in the order in which a layer's parts come."""

    def norm(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, next(weights), next(weights), training=True)

    def convolved(x: Tensor, groups: int = 1) -> Tensor:
        weight = next(weights)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)

    def operation(x: Tensor, kind: int) -> Tensor:
        if kind >= 4:
            # Padding is neither averaged in nor the largest.
            patches = F.unfold(F.pad(x, (1, 1, 1, 1), value=float("nan")), 3).reshape(len(x), x.shape[1], 9, -1)
            pooled = patches.nanmean(dim=2) if kind == 4 else patches.nan_to_num(nan=-float("inf")).amax(dim=2)
            return pooled.reshape(x.shape)
        x = norm(convolved(x.relu())).relu()
        if kind in (1, 3):
            x = convolved(x, groups=x.shape[1])
        return norm(convolved(x))

    rows = json.loads(text)
    third = len(rows) // 3
    vertices = {0: norm(convolved(images))}
    for layer, (kind, *joined) in enumerate(rows, 1):
        made = operation(vertices[layer - 1], kind)
        if layer > 1:
            inputs = [vertices[vertex] for vertex, is_joined in enumerate(joined) if is_joined]
            made = norm(convolved(torch.cat([*inputs, made], dim=1).relu()))
        vertices[layer] = made
        if layer in (third, 2 * third):
            for vertex in sorted(vertices):
                if vertex == layer or any(later[1 + vertex] for later in rows[layer:] if len(later) > 1 + vertex):
                    x = vertices[vertex]
                    even, odd = next(weights), next(weights)
                    moved = torch.zeros_like(x)
                    moved[:, :, :-1, :-1] = x[:, :, 1:, 1:]
                    halves = [F.conv2d(x[:, :, ::2, ::2], even), F.conv2d(moved[:, :, ::2, ::2], odd)]
                    vertices[vertex] = norm(torch.cat(halves, dim=1))
    return vertices[len(rows)].mean(dim=(2, 3)) @ next(weights).T


def in_order(network: nn.Module, layers: int) -> Iterator[Tensor]:
    """The weights in the order in which `evaluated` takes them."""
    yield from network.get_submodule("stem").parameters()
    for layer in range(1, layers + 1):
        yield from network.get_submodule(f"operations.{layer - 1}").parameters()
        yield from network.get_submodule(f"joins.{layer - 1}").parameters()
        for name, halving in network.get_submodule("halvings").named_children():
            if name.startswith(f"layer{layer}_"):
                yield from halving.parameters()
    yield from network.get_submodule("classifier").parameters()


@pytest.mark.parametrize(("space", "count"), [(SIX, 12), (THREE, 8), (Enas(layers=8, channels=2, resolution=11), 4)])
def test_networks_compute_what_their_text_says(space: Enas, count: int) -> None:
    channels, side, layers = (space.options[name] for name in ("in_channels", "resolution", "layers"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, side, side, generator=generator, dtype=torch.float64)
    genes = space.sample(count, np.random.default_rng(0))
    for row, text in zip(genes, space.notation(genes), strict=True):
        network = drawn(space.build(row), 1)
        weights = in_order(network, layers)
        with torch.no_grad():
            torch.testing.assert_close(network(images), evaluated(text, weights, images), rtol=1e-9, atol=1e-9)
        assert next(weights, None) is None
        assert sum(each.numel() for each in network.parameters()) == space.cost(row[None])["params"][0]


def test_a_halving_reads_every_pixel() -> None:
    halving = Halving(1, 2).eval()
    with torch.no_grad():
        for weight in halving.get_submodule("convs").parameters():
            weight.fill_(1.0)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    with torch.no_grad():
        even, odd = (halving(x)[0] * (1 + 1e-5) ** 0.5).round().tolist()
    assert even == [[0, 2], [6, 8]]
    assert odd == [[4, 0], [0, 0]]


def test_only_vertices_that_are_read_again_are_halved() -> None:
    def halved(text: str) -> list[str]:
        network = SIX.build(SIX.from_notation([text])[0])
        return [name for name, _ in network.get_submodule("halvings").named_children()]

    assert halved(PLAIN) == ["layer2_vertex2", "layer4_vertex4"]
    # Layer 3 reads vertex 1, layer 6 reads vertices 0 and 3.
    some = "[[0],[0,0],[0,0,1],[0,0,0,0],[0,0,0,0,0],[0,1,0,0,1,0]]"
    assert halved(some) == [f"layer2_vertex{v}" for v in (0, 1, 2)] + [f"layer4_vertex{v}" for v in (0, 3, 4)]


def test_costs_of_one_network_by_hand() -> None:
    """Three layers on 8×8 pixels, 4 channels; a stage per layer: 4, 8, 16 channels on 8, 4, 2 pixels."""
    space = Enas(layers=3, channels=4, resolution=8, in_channels=1, classes=5)
    genes = space.from_notation(["[[0],[4,1],[3,0,1]]"])
    parts = [
        (9 * 1 * 4, 4, 64),  # the first convolution
        (4 * 4, 4, 64),
        (9 * 4 * 4, 4, 64),  # the first layer: 1×1, then 3×3
        (4 * 8, 8, 16),
        (4 * 8, 8, 16),  # vertices 0 and 1 halved
        (2 * 8 * 8, 8, 16),  # the second layer joins an average pool with vertex 0
        (8 * 16, 16, 4),
        (8 * 16, 16, 4),  # vertices 1 and 2 halved
        (16 * 16, 16, 4),
        (25 * 16 + 16 * 16, 16, 4),  # the third layer: 1×1, then separable 5×5
        (2 * 16 * 16, 16, 4),  # it is joined with vertex 1
    ]
    assert space.cost(genes)["params"].tolist() == [sum(w + 2 * c for w, c, _ in parts) + 16 * 5]
    assert space.cost(genes)["macs"].tolist() == [sum(w * pixels for w, _, pixels in parts) + 16 * 5]


def test_different_rows_compute_differently() -> None:
    """Some of them: each part has one set of weights wherever it stands."""
    images = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = THREE.sample(60, np.random.default_rng(0))
    known: dict[tuple[str, str, tuple[int, ...]], Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    outputs = set()
    for row in rows:
        network = THREE.build(row).double()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                place = ".".join(name.split(".")[:2])
                new = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(known.setdefault((place, name, tuple(weight.shape)), new))
            outputs.add(tuple(np.round(network(images).flatten().tolist(), 9)))
    assert len(outputs) == len(rows) == 60


# ---------------------------------------------------------------------- keys, restrictions, options, notation, graphs


def test_keys_never_change() -> None:
    """What is stored is found by them."""
    numbers = np.frombuffer(hashlib.shake_128(b"rows").digest(21 * 2_000), dtype=np.uint8).reshape(2_000, 21)
    rows = (numbers % SPACE.sizes).astype(np.int8)
    assert len(np.unique(rows, axis=0)) == 2_000
    assert (
        hashlib.sha256("".join(SPACE.keys(rows)).encode()).hexdigest()
        == "cd46944ac46918b523da78380e4018ed4d260c1e094ff9b64fd4fa2871276403"
    )
    assert (SPACE.digest, Enas(identity="row").digest) == (
        "fb76f1a47be8256bcddbcf936b89f201",
        "f2f58213a88fc561635d5adf2f99a418",
    )


def test_restrictions_are_kept() -> None:
    confined = SPACE.restrict({"layer1.op": ["sep_conv_5x5", "conv_3x3"], "layer6.skip0": [1]})
    assert confined.cardinality == SPACE.cardinality // 3 // 2
    assert SPACE.notation(confined.extremes()) == [
        "[[3],[4,0],[4,0,0],[4,0,0,0],[4,0,0,0,0],[4,1,0,0,0,0]]",
        "[[0],[2,1],[2,1,1],[2,1,1,1],[2,1,1,1,1],[2,1,1,1,1,1]]",
    ]
    with pytest.raises(InvalidArchitecture, match="restricted") as refused:
        confined.from_notation([PLAIN])
    assert refused.value.field == "layer6.skip0"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"classes": 0}, "classes"),
    ({"in_channels": True}, "in_channels"),
    ({"resolution": "32"}, "resolution"),
    ({"channels": 2048}, "channels"),
    ({"layers": 2}, "layers"),
    ({"layers": 17}, "layers"),
    ({"identity": "graph"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        Enas(**options)
    assert refused.value.field == field


def test_options_are_complete_and_json() -> None:
    stored = json.loads(json.dumps(SPACE.options))
    assert Enas(**stored).digest == SPACE.digest == Enas(layers=6, channels=96).digest
    assert len({SPACE.digest, THREE.digest, SIX.digest, Enas(layers=12).digest}) == 4


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[[6],[0,0],[0,0,0],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "layer1.op"),
        ("[[0],[0,0],[0,0,2],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "layer3.skip1"),
        ("[[0],[0,0],[00,0,1],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "layer3.op"),
        ("[[0],[0,0],[0,0,0],[0,0,0,0],[0,0,0,0,0]]", "notation"),
        ("[[0],[0,0],[0,0,0],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0],[0,0,0,0,0,0,0]]", "notation"),
        ("[[0],[0,0],[0,0],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0,0]]", "notation"),
        ("[[0],[0,0],[0,0,-1],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "notation"),
        ("[[0],[0,0],[0,0,1.0],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "notation"),
        ("[[0],[0,0],[0,0,true],[0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]", "notation"),
        ("[" * 10_000, "notation"),
        ("0 " * 20, "notation"),
        ("0 " * 20 + "7" * 5_000, "layer6.skip4"),
        ("0," * 20 + "0", "notation"),
    ],
)
def test_other_texts_are_refused(text: str, field: str) -> None:
    with pytest.raises(InvalidArchitecture) as refused:
        SPACE.from_notation([PLAIN, text])
    assert (refused.value.row, refused.value.field) == (1, field)


def test_there_is_no_super_network() -> None:
    with pytest.raises(Unsupported, match="no super-network"):
        SPACE.supernet()


def test_graphs_of_three_layers() -> None:
    graphs = THREE.graphs(THREE.from_notation(["[[1],[5,1],[2,0,1]]"]))
    labels = [graphs.labels[operation] for operation in graphs.operations[0]]
    assert labels == ["input", OPERATIONS[1], OPERATIONS[5], "conv_1x1", OPERATIONS[2], "conv_1x1", "output"]
    edges = {(int(a), int(b)) for a, b in np.argwhere(graphs.adjacency[0])}
    assert edges == {(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (4, 5), (1, 5), (5, 6)}
