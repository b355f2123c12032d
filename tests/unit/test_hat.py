"""The translator's space: published sizes and tables, notation, graphs, options."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.hat import IWSLT, MEASURED, Hat
from search_spaces.networks.hat import Network
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from search_spaces.translators import FEATURES
from tests.shared import SHARED, needs_shared
from tests.spaces.hat import TINY_TRANSLATOR, config_of, row_of

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)


def own_size(space: Hat, row: Genes) -> tuple[float, float]:
    """Parameters and MACs without embeddings and output, as HAT states sizes."""
    layout, costs = space.layout(row), space.cost(row[None])
    fixed = layout.fixed_cost(space.options["target_length"])
    return float(costs["params"][0] - fixed[0]), float(costs["macs"][0] - fixed[1])


# ---------------------------------------------------------------------- what is published


def test_the_published_spaces() -> None:
    space = Hat()
    layers = 3 * 2 * 2 * 3
    assert space.cardinality == 2 * 2 * (3 * 2) ** 6 * sum(layers**depth for depth in range(1, 7))
    # "10^15" in the paper: rows, of which many are one architecture.
    assert round(math.log10(math.prod(space.sizes.tolist()))) == 15
    smallest, largest = (space.layout(row) for row in space.extremes())
    assert (smallest.encoder_width, len(smallest.encoder), len(smallest.decoder)) == (512, 6, 1)
    assert (largest.encoder_width, len(largest.encoder), len(largest.decoder)) == (640, 6, 6)
    assert {layer.attends for layer in largest.decoder} == {3}
    assert Hat(**IWSLT).cardinality == space.cardinality, "other options, as many"


# Name: options, embeddings, encoder and decoder FFN in 1024, attended layers, published parameters (M) and FLOPs (G).
SEARCHED: dict[str, tuple[dict[str, Any], int, list[int], list[int], list[int], float, float]] = {
    "wmt14ende_raspberrypi@3.5s": ({}, 512, [1, 3, 3, 2, 2, 2], [3], [1], 25.22, 1.53),
    "wmt14ende_raspberrypi@4.0s": ({}, 512, [3, 2, 3, 2, 3, 2], [1, 2], [1, 1], 29.42, 1.78),
    "wmt14ende_raspberrypi@5.0s": ({}, 512, [3, 3, 3, 2, 3, 3], [1, 2, 3], [1, 2, 1], 36.77, 2.26),
    "wmt14ende_raspberrypi@6.0s": ({}, 512, [3] * 6, [2, 2, 3, 3], [1, 1, 2, 1], 44.13, 2.70),
    "wmt14ende_raspberrypi@6.9s": ({}, 512, [3] * 6, [2, 2, 3, 3, 2], [1, 2, 2, 2, 1], 48.33, 3.02),
    "wmt14ende_xeon@137.9ms": ({}, 512, [3] * 6, [3], [2], 30.47, 1.87),
    "wmt14ende_xeon@340.2ms": ({}, 512, [3] * 6, [3] * 4, [1, 2, 2, 1], 46.23, 2.86),
    "wmt14ende_xeon@450.9ms": ({}, 512, [3] * 6, [3] * 6, [1, 2, 2, 2, 1, 1], 56.73, 3.53),
    "wmt14ende_titanxp@91.2ms": ({}, 512, [3] * 6, [3] * 2, [1, 2], 35.72, 2.19),
    "wmt14ende_titanxp@146.7ms": ({}, 640, [3] * 6, [3] * 3, [1, 2, 2], 51.20, 3.17),
    "wmt14ende_titanxp@208.1ms": ({}, 512, [3] * 6, [2, 2, 3, 3, 3], [1, 2, 2, 2, 1], 49.38, 3.09),
    "wmt14enfr_raspberrypi@9.1s": ({}, 512, [3] * 6, [3] * 6, [1, 2, 1, 2, 3, 1], 56.73, 3.57),
    "wmt14enfr_titanxp@208.3ms": ({}, 512, [3] * 6, [3] * 5, [1, 3, 2, 2, 1], 51.48, 3.25),
    "iwslt14deen_titanxp@45.6ms": (IWSLT, 512, [1] * 6, [2], [1], 16.82, 0.78),
    "iwslt14deen_titanxp@137.8ms": (IWSLT, 512, [1] * 6, [1, 2, 2, 1], [3, 1, 1, 1], 27.33, 1.32),
    "iwslt14deen_titanxp@168.8ms": (IWSLT, 512, [1] * 6, [2, 2, 2, 1, 1], [3, 1, 1, 1, 1], 31.54, 1.52),
}


@pytest.mark.parametrize("name", list(SEARCHED))
def test_searched_networks_have_their_published_sizes(name: str) -> None:
    options, width, encoder, decoder, attends, millions, billions = SEARCHED[name]
    space = Hat(**options)
    row = row_of(
        space,
        (width, width),
        [(1024 * ffn, 4) for ffn in encoder],
        [(1024 * ffn, 4, 4, layers) for ffn, layers in zip(decoder, attends, strict=True)],
    )
    params, macs = own_size(space, row)
    assert round(params / 1e6, 2) == millions
    # The published count has a thousandth more: norms, and what else is neither a product nor a sum of products.
    assert 2 * macs / 1e9 == pytest.approx(billions, abs=0.0101)
    assert 2 * macs / 1e9 < billions + 0.005


def test_the_super_network_has_its_published_size() -> None:
    """HAT's own count for IWSLT'14, with three tables of embeddings and without."""
    network = Network(Hat(**IWSLT).full, device="meta")
    tables = [network.source_embedding, network.target_embedding, network.output]
    embeddings = sum(table.weight.numel() for table in tables if table is not None)
    assert embeddings == 14_151_680
    assert sum(each.numel() for each in network.parameters()) - embeddings == 55_160_064


TABLES = (
    "iwslt14deen_gpu_titanxp",
    "wmt14ende_cpu_xeon",
    "wmt14ende_gpu_titanxp",
    "wmt14enfr_cpu_xeon",
    "wmt14enfr_gpu_titanxp",
)


@cache
def addends(options: tuple[int, ...], count: int) -> dict[int, tuple[int, ...]]:
    """Sum → ``count`` of the options that have it."""
    return {sum(each): each for each in itertools.combinations_with_replacement(options, count)}


@needs_shared
@pytest.mark.parametrize("name", TABLES)
def test_measured_configurations_are_rows_of_the_space(name: str) -> None:
    """All 2,000 of each table: a network with these very features is in the space.

    The tables give means over layers, float32, so that which layer has which option is not known; the features are
    those of the network that they were taken from all the same.
    """
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(SHARED / f"data/hat_latency/{name}.parquet").to_pydict()
    published = np.array([table[feature] for feature in FEATURES]).T
    space = Hat(**MEASURED)
    rows = []
    for source, encoder, *means, target, decoder, ffn, own, cross, attends in published.tolist():
        layers = {
            kind: addends(tuple(space.options[kind]), int(count))[round(mean * count)]
            for kind, count, mean in (
                ("encoder_ffn", encoder, means[0]),
                ("encoder_heads", encoder, means[1]),
                ("decoder_ffn", decoder, ffn),
                ("decoder_heads", decoder, own),
                ("cross_heads", decoder, cross),
                ("attends", decoder, attends),
            )
        }
        first = list(zip(layers["encoder_ffn"], layers["encoder_heads"], strict=True))
        names = ("decoder_ffn", "decoder_heads", "cross_heads", "attends")
        second = list(zip(*(layers[kind] for kind in names), strict=True))
        rows.append(config_of((int(source), int(target)), first, second))
    genes = space.from_configs(rows)
    np.testing.assert_allclose(space.features(genes), published, rtol=1e-7)
    # They are wider than any space that was searched: its choices have neither 512 channels nor 2 heads.
    searched = Hat(**IWSLT) if name.startswith("iwslt") else Hat()
    inside = 0
    for config in rows[:200]:
        try:
            inside += len(searched.from_configs([config]))
        except InvalidArchitecture:
            continue
    assert inside < 20


def test_a_network_of_full_size_costs_what_is_counted() -> None:
    """On the device "meta", where shapes pass through and nothing is computed."""
    for options in ({}, IWSLT):
        space = Hat(**options)
        row = space.sample(1, np.random.default_rng(0))[0]
        network = Network(space.layout(row), device="meta")
        lengths = (space.options["source_length"], space.options["target_length"])
        read = [torch.zeros(1, length, dtype=torch.int64, device="meta") for length in lengths]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            network(*read)
        counted = {"params": sum(each.numel() for each in network.parameters()), "macs": flops.get_total_flops() // 2}
        assert {metric: int(values[0]) for metric, values in space.cost(row[None]).items()} == counted


# ---------------------------------------------------------------------- text, graphs, options

FILE = """encoder-embed-dim-subtransformer: 512
decoder-embed-dim-subtransformer: 640

encoder-ffn-embed-dim-all-subtransformer: [3072, 3072, 3072, 2048, 3072, 3072]
decoder-ffn-embed-dim-all-subtransformer: [1024, 2048, 3072]

encoder-layer-num-subtransformer: 6
decoder-layer-num-subtransformer: 3

encoder-self-attention-heads-all-subtransformer: [8, 8, 8, 8, 8, 4]
decoder-self-attention-heads-all-subtransformer: [4, 8, 8]
decoder-ende-attention-heads-all-subtransformer: [4, 4, 8]

# -1: the last encoder layer
decoder-arbitrary-ende-attn-all-subtransformer: [-1, 1, 2]
"""


def test_notation_is_that_of_published_files() -> None:
    space = Hat()
    heads = [8, 8, 8, 8, 8, 4]
    encoder = list(zip([3072, 3072, 3072, 2048, 3072, 3072], heads, strict=True))
    row = row_of(space, (512, 640), encoder, [(1024, 4, 4, 1), (2048, 8, 4, 2), (3072, 8, 8, 3)])
    np.testing.assert_array_equal(space.from_notation([FILE]), row[None])
    assert space.notation(row[None])[0].splitlines()[-1] == (
        "decoder-arbitrary-ende-attn-all-subtransformer: [-1, 1, 2, -1, -1, -1]"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[-1, 1, 2]",
            "[0, 1, 2]",
            r"decoder-arbitrary-ende-attn-all-subtransformer\[0\] is 0, options are \[-1, 1, 2\]",
        ),
        ("[-1, 1, 2]", "[-1, 1]", "decoder-arbitrary-ende-attn-all-subtransformer must be a list of 3 to 6"),
        ("layer-num-subtransformer: 3", "layer-num-subtransformer: 7", "decoder-layer-num-subtransformer is 7"),
        ("decoder-layer-num-subtransformer: 3", "", "decoder-layer-num-subtransformer is missing"),
        ("[1024, 2048, 3072]", "[1024, 2048, 512]", r"decoder-ffn-embed-dim-all-subtransformer\[2\] is 512"),
    ],
)
def test_bad_texts_are_refused(old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(InvalidArchitecture, match=rf"^row 1: notation: {message}"):
        Hat().from_notation([FILE, FILE.replace(old, new)])


def test_the_graph_of_a_small_network() -> None:
    space = Hat(**TINY_TRANSLATOR)
    rows = [
        row_of(space, (6, 8), [(5, 2), (7, 2)], [(3, 4, 2, 2)]),
        row_of(space, (8, 4), [(5, 2), (7, 2), (5, 2)], [(3, 4, 2, 1), (3, 1, 2, 2)]),
    ]
    graphs = space.graphs(np.stack(rows))
    labels = [[graphs.labels[o] for o in row if o >= 0] for row in graphs.operations.tolist()]
    target = ["target_8", "masked_4", "cross_2", "ffn_3", "output"]
    assert labels[0] == ["input", "source_6", "attention_2", "ffn_5", "attention_2", "ffn_7", *target]
    assert labels[1][:8] == [
        "input",
        "source_8",
        "attention_2",
        "ffn_5",
        "attention_2",
        "ffn_7",
        "attention_2",
        "ffn_5",
    ]
    assert labels[1][8:] == ["target_4", "masked_4", "cross_2", "ffn_3", "masked_1", "cross_2", "ffn_3", "output"]
    edges = [{(int(a), int(b)) for a, b in np.argwhere(adjacency)} for adjacency in graphs.adjacency]
    chain = {*itertools.pairwise(range(6)), (0, 6), *itertools.pairwise(range(6, 11))}
    assert edges[0] == chain | {(3, 8), (5, 8)}
    chain = {*itertools.pairwise(range(8)), (0, 8), *itertools.pairwise(range(8, 16))}
    assert edges[1] == chain | {(7, 10), (5, 13), (7, 13)}


def test_sentences_are_read_not_images() -> None:
    space = Hat(**IWSLT)
    row = space.extremes()[0]
    with pytest.raises(Unsupported, match="inputs"):
        space.input_shape(row)
    source, target = space.inputs(row, 50, np.random.default_rng(0))
    assert (source.shape, target.shape) == ((50, 23), (50, 23))
    assert source.dtype == target.dtype == np.int64
    assert 4 <= source.min() < source.max() < 8848
    assert 4 <= target.min() < target.max() < 6632


BAD: list[tuple[dict[str, Any], str]] = [
    ({"no_such": 1}, "no_such"),
    ({"source_vocabulary": 4}, "source_vocabulary"),
    ({"target_vocabulary": 10**7}, "target_vocabulary"),
    ({"target_vocabulary": 1000}, "shared_embeddings"),
    ({"shared_embeddings": 1}, "shared_embeddings"),
    ({"source_length": 0}, "source_length"),
    ({"qkv_dim": 510}, "encoder_heads"),
    ({"cross_heads": [3]}, "cross_heads"),
    ({"decoder_heads": [4, 4]}, "decoder_heads"),
    ({"encoder_embeddings": [3]}, "encoder_embeddings"),
    ({"decoder_layers": [0, 1]}, "decoder_layers"),
    ({"encoder_ffn": []}, "encoder_ffn"),
    ({"attends": [4], "encoder_layers": [3, 6]}, "attends"),
    ({"attends": [0]}, "attends"),
    ({"identity": "rows"}, "identity"),
]


@pytest.mark.parametrize(("options", "field"), BAD, ids=[f"{field}-{n}" for n, (_, field) in enumerate(BAD)])
def test_bad_options_are_refused_by_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpace) as refused:
        Hat(**options)
    assert refused.value.field == field


def test_a_space_of_more_networks_than_floats_hold_is_drawn_from() -> None:
    sixteen, heads = list(range(1, 17)), [number for number in range(1, 22) if 2520 % number == 0]
    layers = list(range(49, 65))
    space = Hat(
        qkv_dim=2520,
        encoder_layers=layers,
        decoder_layers=layers,
        decoder_ffn=sixteen,
        decoder_heads=heads,
        cross_heads=heads,
        attends=sixteen,
    )
    assert space.cardinality > 1 << 1024
    genes = space.sample(20, np.random.default_rng(0))
    assert len(genes) == 20
    assert space.valid(genes).all()


def test_keys_of_the_published_space_never_change() -> None:
    space = Hat()
    assert (space.digest, *space.keys(space.extremes())) == (
        "c0b45662576b459d41aed37659ab3714",
        "673cbd9a83cb676eba3e0bcd63a2b414",
        "816c270e1bbced2d99bd111ccd2f792a",
    )


def test_options_are_complete_and_json() -> None:
    for options in ({}, IWSLT, MEASURED):
        space = Hat(**options)
        assert Hat(**json.loads(json.dumps(space.options))).digest == space.digest
    assert len({Hat(**options).digest for options in ({}, IWSLT, MEASURED, {"target_length": 29})}) == 4
