"""The translator's networks: torch's own layers, padding, slices of the super-network, published checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces.hat import Hat
from search_spaces.networks.attention import sinusoids
from search_spaces.networks.hat import PAD, embedded
from search_spaces.networks.initialise import initialise
from search_spaces.space import Genes
from tests.spaces.hat import TINY_TRANSLATOR, row_of

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)


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
