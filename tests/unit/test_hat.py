"""The translator: published sizes and tables, torch's own layers, padding, published checkpoints, notation."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.hat import IWSLT, MEASURED, Hat
from search_spaces.networks.attention import sinusoids
from search_spaces.networks.hat import PAD, Network, embedded
from search_spaces.networks.initialise import initialise
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, Unsupported
from search_spaces.translators import FEATURES
from tests.shared import SHARED, needs_shared
from tests.spaces.hat import TINY_TRANSLATOR

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)


def config_of(widths: tuple[int, int], encoder: list[Any], decoder: list[Any]) -> dict[str, Any]:
    """Encoder layers are (ffn, heads), decoder layers (ffn, self_heads, cross_heads, attends)."""
    config: dict[str, Any] = {"encoder.embedding": widths[0], "encoder.layers": len(encoder)}
    config |= {"decoder.embedding": widths[1], "decoder.layers": len(decoder)}
    for side, names, layers in (
        ("encoder", ("ffn", "heads"), encoder),
        ("decoder", ("ffn", "self_heads", "cross_heads", "attends"), decoder),
    ):
        for number, layer in enumerate(layers, 1):
            config |= {f"{side}.layer{number}.{name}": value for name, value in zip(names, layer, strict=True)}
    return config


def row_of(space: Hat, widths: tuple[int, int], encoder: list[Any], decoder: list[Any]) -> Genes:
    row: Genes = space.from_configs([config_of(widths, encoder, decoder)])[0]
    return row


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


def test_heads_change_the_function_and_nothing_else() -> None:
    space = Hat(**TINY_TRANSLATOR)
    rows = [row_of(space, (8, 8), [(5, 2)] * 2, [(3, heads, 2, 1)]) for heads in (1, 4)]
    one, other = (space.build(row) for row in rows)
    other.load_state_dict(one.state_dict())
    read = tokens(space, rows[0])
    with torch.no_grad():
        assert (one(*read) - other(*read)).abs().max() > 1e-4
    costs = space.cost(np.stack(rows))
    assert all(values[0] == values[1] for values in costs.values())


# ---------------------------------------------------------------------- what networks compute


def tokens(space: Hat, row: Genes, batch: int = 3) -> list[Tensor]:
    return [torch.from_numpy(each) for each in space.inputs(row, batch, np.random.default_rng(2))]


def noisy(module: nn.Module) -> Any:
    """In double precision, no two weights equal."""
    module, rng = module.double(), np.random.default_rng(5)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.from_numpy(rng.standard_normal(value.shape)))
    return module.eval()


EVEN = TINY_TRANSLATOR | {"encoder_embeddings": [8], "decoder_embeddings": [8], "qkv_dim": 8, "target_length": 4}


@pytest.mark.parametrize("shared", [True, False])
def test_layers_are_torchs_own(shared: bool) -> None:
    """Where attention is as wide as the embeddings, with the layers that are attended to side by side."""
    space = Hat(**EVEN | {"shared_embeddings": shared})
    row = row_of(space, (8, 8), [(5, 2), (7, 2), (5, 2)], [(3, 4, 2, 1), (3, 1, 2, 2)])
    network = noisy(space.build(row))
    parts = network.state_dict()
    attention = {"in_proj_": "in_proj.", "out_proj.": "out_proj."}
    ends = ("weight", "bias")

    def filled(layer: nn.Module, names: dict[str, str], prefix: str) -> nn.Module:
        state = {new + end: parts[f"{prefix}.{old}{end}"] for new, old in names.items() for end in ends}
        for end in ends if "multihead_attn.out_proj." in names else ():
            both = [parts[f"{prefix}.encoder_attn.{name}.{end}"] for name in ("q_proj", "kv_proj")]
            state[f"multihead_attn.in_proj_{end}"] = torch.cat(both)
        layer.load_state_dict(state)
        return layer.double().eval()

    source, target = tokens(space, row)
    table = parts["source_embedding.weight"]
    x = table[source] * 8**0.5 + sinusoids(torch.arange(3) + 2, 8)
    inside = {f"self_attn.{a}": f"self_attn.{b}" for a, b in attention.items()} | {"linear1.": "fc1."}
    inside |= {"linear2.": "fc2.", "norm1.": "self_attn_layer_norm."}
    memory = []
    with torch.no_grad():
        for index, ffn in enumerate((5, 7, 5)):
            encoder = nn.TransformerEncoderLayer(8, 2, ffn, dropout=0, batch_first=True)
            x = filled(encoder, inside | {"norm2.": "final_layer_norm."}, f"encoder.{index}")(x)
            memory.append(x)
        target_table = table if shared else parts["target_embedding.weight"]
        y = target_table[target] * 8**0.5 + sinusoids(torch.arange(4) + 2, 8)
        later = torch.ones(4, 4, dtype=torch.bool).triu(1)
        for index, (own, cross, layers) in enumerate(((4, 2, 1), (1, 2, 2))):
            decoder = nn.TransformerDecoderLayer(8, own, 3, dropout=0, batch_first=True)
            decoder.multihead_attn = nn.MultiheadAttention(8, cross, batch_first=True)
            names = inside | {
                "multihead_attn.out_proj.": "encoder_attn.out_proj.",
                "norm2.": "encoder_attn_layer_norm.",
            }
            filled(decoder, names | {"norm3.": "final_layer_norm."}, f"decoder.{index}")
            # Last first, as HAT has them: the order of what is attended to changes nothing.
            y = decoder(y, torch.cat(memory[::-1][:layers], dim=1), tgt_mask=later)
        expected = y @ (table if shared else parts["output.weight"]).T
        torch.testing.assert_close(network(source, target), expected, rtol=1e-5, atol=1e-5)


def test_tokens_are_embedded_as_published() -> None:
    """Scaled by the root of the width in use; the first of the widest width's sinusoids; nothing for padding."""
    table = nn.Embedding(9, 8, PAD)
    sentence = torch.tensor([[PAD, 5, 7, PAD, 5]])
    x = embedded(sentence, table, 6, 8)
    marks = sinusoids(torch.tensor([PAD + 1, PAD + 2, PAD + 3]), 8)
    expected = table.weight[[5, 7, 5], :6] * 6**0.5 + marks[:, :6]
    torch.testing.assert_close(x[0, [1, 2, 4]], expected)
    assert (x[0, [0, 3]] == 0).all()


def test_padding_is_not_read_and_no_target_reads_ahead() -> None:
    space = Hat(**TINY_TRANSLATOR)
    row = row_of(space, (6, 8), [(5, 2)] * 3, [(3, 4, 2, 2), (3, 1, 2, 1)])
    network = noisy(space.build(row))
    source, target = tokens(space, row)
    padded = torch.cat([source, torch.full((3, 2), PAD)], dim=1)
    left = torch.cat([torch.full((3, 2), PAD), source], dim=1)
    # Positions are float32, whose sines differ in their last bit with the shape that they are computed in.
    with torch.no_grad():
        expected = network(source, target)
        torch.testing.assert_close(network(padded, target), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(left, target), expected, rtol=1e-5, atol=1e-5)
        longer = torch.cat([target, torch.full((3, 1), 7)], dim=1)
        torch.testing.assert_close(network(source, longer)[:, :2], expected, rtol=1e-5, atol=1e-5)
        assert (network(source.roll(1, dims=1), target) - expected).abs().max() > 1e-3, "order is seen"


# ---------------------------------------------------------------------- the super-network


def as_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as a SuperTransformer of fairseq holds them, embeddings shared."""
    state = {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}
    state |= {f"{side}.embed_positions._float_tensor": torch.zeros(1) for side in ("encoder", "decoder")}
    for name, value in weights.items():
        if name == "source_embedding.weight":
            state |= {"encoder.embed_tokens.weight": value, "decoder.embed_tokens.weight": value}
            continue
        side, layer, rest = name.split(".", 2)
        name = f"{side}.layers.{layer}.{rest}".replace("in_proj.", "in_proj_")
        if ".kv_proj." in name:
            continue
        if ".q_proj." in name:
            name = name.replace("q_proj.", "in_proj_")
            value = torch.cat([value, weights[f"{side}.{layer}.{rest}".replace("q_proj", "kv_proj")]])
        state[name] = value
    return state


def test_a_published_checkpoint_loads() -> None:
    space = Hat(**TINY_TRANSLATOR | {"decoder_embeddings": [8, 6]})
    source, supernet = noisy(space.supernet()), space.supernet().double().eval()
    given = as_published(source.state_dict())
    assert "decoder.layers.1.encoder_attn.in_proj_weight" in given
    kept = dict(given)
    supernet.load_state_dict(given)
    assert all(given[name] is value for name, value in kept.items()), "the caller's dictionary is left alone"
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in supernet.state_dict().items())
    del given["decoder.layers.1.encoder_attn.in_proj_weight"]
    with pytest.raises(RuntimeError, match="q_proj"):
        supernet.load_state_dict(given)


def test_slices_are_the_published_ones() -> None:
    space = Hat(**TINY_TRANSLATOR)
    supernet = noisy(space.supernet())
    part = supernet.extract(row_of(space, (6, 4), [(5, 2)] * 2, [(3, 4, 2, 1)])).state_dict()
    whole = supernet.state_dict()
    for name, shape in {
        "source_embedding.weight": (9, 6),
        "encoder.1.self_attn.in_proj.weight": (12, 6),
        "encoder.1.fc1.weight": (5, 6),
        "encoder.1.fc2.weight": (6, 5),
        "decoder.0.self_attn.in_proj.weight": (12, 4),
        "decoder.0.encoder_attn.q_proj.weight": (4, 4),
        "decoder.0.encoder_attn.kv_proj.weight": (8, 6),
        "decoder.0.final_layer_norm.weight": (4,),
    }.items():
        torch.testing.assert_close(part[name], whole[name][tuple(slice(size) for size in shape)])
    assert {name.split(".")[1] for name in part if name.startswith("decoder")} == {"0"}


def test_a_super_network_learns_to_copy() -> None:
    """One batch of ten sentences, target words equal to source words: weights shared by all rows serve each."""
    space = Hat(**TINY_TRANSLATOR | {"qkv_dim": 16, "encoder_embeddings": [16, 24], "decoder_embeddings": [16, 24]})
    supernet = initialise(space.supernet(), np.random.default_rng(0)).train()
    optimiser = torch.optim.Adam(supernet.parameters(), lr=0.02)
    rng = np.random.default_rng(1)
    words = torch.from_numpy(rng.integers(4, 9, (10, 2)))
    shown = torch.cat([torch.full((10, 1), 2), words[:, :1]], dim=1)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        for row in np.concatenate([space.extremes(), space.sample(1, rng)]):
            logits = supernet(words, shown, row)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten())
            torch.autograd.backward(loss)
            losses.append(loss.item())
        optimiser.step()
    assert max(losses[-3:]) < 0.3 < 1.2 < min(losses[:3])


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


def test_options_are_complete_and_json() -> None:
    for options in ({}, IWSLT, MEASURED):
        space = Hat(**options)
        assert Hat(**json.loads(json.dumps(space.options))).digest == space.digest
    assert len({Hat(**options).digest for options in ({}, IWSLT, MEASURED, {"target_length": 29})}) == 4
