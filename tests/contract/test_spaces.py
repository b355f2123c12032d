"""What every search space keeps, over every entry point of ``frontier.spaces``."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.networks.initialise import initialise
from search_spaces.plugins import load, names
from search_spaces.space import Bools, Genes, InvalidArchitecture, InvalidSpace, SearchSpace, Unsupported, distinct
from tests.spaces import CASES, PINNED

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

LISTED = 16_000
"""Spaces with at most so many rows are listed whole."""


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def space(case: str) -> SearchSpace:
    plugin, options = CASES[case]
    built: SearchSpace = load("spaces", plugin)(**options)
    return built


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def genes(space: SearchSpace, rng: np.random.Generator) -> Genes:
    found = space.sample(200, rng)
    assert len(found) > 20
    return found


def listed(space: SearchSpace) -> Genes:
    """All valid rows, or a skip."""
    if np.prod(space.sizes.astype(float)) > LISTED:
        pytest.skip("too many rows to list")
    rows = np.array(list(itertools.product(*(range(size) for size in space.sizes))), dtype=np.int8)
    return rows[space.valid(rows)]


def scrambled(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> Genes:
    """The same architectures with other values in their inactive choices."""
    other = (rng.random(genes.shape) * space.sizes).astype(np.int8)
    rows = np.where(space.active(genes), genes, other).astype(np.int8)
    return rows[space.valid(rows)]


def narrowed(space: SearchSpace) -> tuple[SearchSpace, dict[str, list[Any]]]:
    """Without the first option of every other choice that has two; of every fourth where that would leave nothing."""
    choices = [choice for choice in space.choices if len(choice.options) > 1]
    for step in (2, 4):
        rules = {choice.name: list(choice.options[1:]) for choice in choices[::step]}
        confined = space.restrict(rules)
        if len(confined.sample(2, np.random.default_rng(0))) == 2:
            break
    return confined, rules


def all_parts_used(case: str, space: SearchSpace, rows: Genes) -> Genes:
    """The rows without weights that have no effect: as the same space makes them where only the function counts."""
    plugin, options = CASES[case]
    twin: SearchSpace = load("spaces", plugin)(**options | {"identity": "function"})
    return twin.canonical(rows)


def cut_off(space: SearchSpace, rows: Genes) -> Bools:
    """(n,): networks whose output does not depend on their input; the graph of each says so by a node ``none``."""
    graphs = space.graphs(rows)
    nothing = [index for index, label in enumerate(graphs.labels) if label == "none"]
    return np.asarray(np.isin(graphs.operations, nothing).any(axis=1))


def build(space: SearchSpace, row: Genes) -> nn.Module:
    try:
        return space.build(row)
    except Unsupported as error:
        pytest.skip(str(error))


def inputs(space: SearchSpace, row: Genes, batch: int, rng: np.random.Generator) -> list[Tensor]:
    return [torch.from_numpy(each) for each in space.inputs(row, batch, rng)]


def a_few(space: SearchSpace, genes: Genes) -> Genes:
    return np.concatenate([space.extremes(), genes[:1]])


# ---------------------------------------------------------------------- rows


def test_samples_are_valid_distinct_and_canonical(space: SearchSpace, genes: Genes) -> None:
    assert genes.dtype == np.int8
    assert genes.shape[1] == len(space.choices)
    assert space.valid(genes).all()
    assert len({row.tobytes() for row in genes}) == len(genes)
    np.testing.assert_array_equal(space.canonical(genes), genes)
    again = space.sample(200, np.random.default_rng(7))
    np.testing.assert_array_equal(again, genes)


def test_canonical_is_idempotent_and_keeps_what_is_active(
    space: SearchSpace, genes: Genes, rng: np.random.Generator
) -> None:
    rows = scrambled(space, genes, rng)
    once = space.canonical(rows)
    np.testing.assert_array_equal(space.canonical(once), once)
    assert space.valid(once).all()
    assert space.keys(rows) == space.keys(once)
    if space.identity == "row":
        np.testing.assert_array_equal(once, rows)
    else:
        assert not once[~space.active(once)].any()
        np.testing.assert_array_equal(once, genes)


def test_canonical_networks_compute_the_same(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    rows = scrambled(space, genes[:40], rng)
    stands_for = space.canonical(rows)
    for metric, values in space.cost(rows).items():
        if space.identity == "function":
            # A canonical row may be cheaper, by dead weights, never dearer.
            assert (space.cost(stands_for)[metric] <= values).all()
    for row, canonical in zip(rows[:2], stands_for[:2], strict=True):
        one, other = build(space, row).eval(), build(space, canonical).eval()
        other.load_state_dict(one.state_dict())
        read = inputs(space, row, 2, rng)
        with torch.no_grad():
            torch.testing.assert_close(one(*read), other(*read))


def test_keys_are_unique_and_never_change(space: SearchSpace, case: str, genes: Genes) -> None:
    keys = space.keys(genes)
    assert len(set(keys)) == len(genes)
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
    if case in PINNED:
        assert (space.digest, *space.keys(space.extremes())) == PINNED[case]


def test_digests_tell_spaces_apart() -> None:
    digests = {load("spaces", plugin)(**options).digest for plugin, options in CASES.values()}
    assert len(digests) == len(CASES)


def test_one_row_per_architecture_when_listed(space: SearchSpace) -> None:
    rows = listed(space)
    canonical = distinct(space.canonical(rows))
    assert len(set(space.keys(rows))) == len(canonical)
    if space.identity == "row":
        assert len(canonical) == len(rows)


def test_cardinality_is_the_number_of_architectures(space: SearchSpace) -> None:
    for bounded in (space, narrowed(space)[0]):
        expected = len(distinct(bounded.canonical(listed(bounded))))
        assert bounded.cardinality in ([expected] if space.uniform else [expected, None])


def test_empty_batches(space: SearchSpace) -> None:
    none = np.empty((0, len(space.choices)), dtype=np.int8)
    assert space.keys(none) == []
    assert space.to_configs(none) == []
    assert space.from_configs([]).shape == none.shape
    assert space.canonical(none).shape == none.shape
    assert all(values.shape == (0,) for values in space.cost(none).values())
    assert len(space.graphs(none).operations) == 0
    assert len(space.mutate(none, np.random.default_rng(0))) == 0
    assert len(space.sample(0, np.random.default_rng(0))) == 0


# ---------------------------------------------------------------------- configs


def test_configs_survive_json(space: SearchSpace, genes: Genes) -> None:
    configs = json.loads(json.dumps(space.to_configs(genes)))
    np.testing.assert_array_equal(space.from_configs(configs), genes)


def test_notation_is_read_back(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    rows = scrambled(space, genes, rng)
    try:
        texts = space.notation(rows)
    except Unsupported:
        with pytest.raises(Unsupported, match="config"):
            space.from_notation(["x"])
        with pytest.raises(InvalidArchitecture, match=r"^row 1: config: .* has no notation"):
            space.from_configs([space.to_configs(genes[:1])[0], "x"])
        return
    np.testing.assert_array_equal(space.from_notation(texts), rows)
    mixed = [texts[0], space.to_configs(rows[1:2])[0], texts[2]]
    # A config leaves out what is inactive.
    np.testing.assert_array_equal(space.canonical(space.from_configs(mixed)), space.canonical(rows[:3]))
    assert space.from_notation([]).shape == (0, len(space.choices))
    for wrong in ("", texts[1] + texts[1], texts[1][:-1] + "?", None, 3, b"x"):
        with pytest.raises(InvalidArchitecture, match=r"^row 1: ") as refused:
            space.from_notation([texts[0], wrong])  # type: ignore[list-item]
        assert (refused.value.row, refused.value.field) == (1, "notation")


BREAKAGES: dict[str, tuple[Callable[[dict[str, Any], str], Any], str]] = {
    "unknown choice": (lambda config, name: config | {"no such": 1}, "no such"),
    "unknown option": (lambda config, name: config | {name: "no such"}, "NAME"),
    "a boolean": (lambda config, name: config | {name: True}, "NAME"),
    "a list": (lambda config, name: config | {name: [1]}, "NAME"),
    "missing": (lambda config, name: {key: value for key, value in config.items() if key != name}, "NAME"),
    "no object": (lambda config, name: [config], "config"),
}


@pytest.mark.parametrize("breakage", list(BREAKAGES))
def test_bad_configs_are_refused_by_row_and_field(space: SearchSpace, genes: Genes, breakage: str) -> None:
    name = space.choices[0].name
    spoil, field = BREAKAGES[breakage]
    configs: list[Any] = space.to_configs(genes[:3])
    configs[1] = spoil(configs[1], name)
    with pytest.raises(InvalidArchitecture) as refused:
        space.from_configs(configs)
    assert (refused.value.row, refused.value.field) == (1, field.replace("NAME", name))
    assert str(refused.value).startswith("row 1")


def test_bad_genes_are_refused_by_row_and_field(space: SearchSpace, genes: Genes) -> None:
    last = len(space.choices) - 1
    for value in (-1, int(space.sizes[last]), 127):
        bad = genes.astype(np.int64)
        bad[2, last] = value
        with pytest.raises(InvalidArchitecture) as refused:
            space.check(bad)
        assert (refused.value.row, refused.value.field) == (2, space.choices[last].name)
        assert space.valid(bad.astype(np.int8)).tolist() == [row != 2 for row in range(len(genes))]
    for wrong in (genes[:, 1:], genes[0], genes.astype(np.float32), np.full(genes.shape, 1000)):
        with pytest.raises(InvalidArchitecture):
            space.check(wrong)
    np.testing.assert_array_equal(space.check(genes.tolist()), genes)
    rows = genes[:3].tolist()
    for ragged in (rows[2][1:], [*rows[2][1:], [0]], [*rows[2], 0], 0, None):
        with pytest.raises(InvalidArchitecture) as refused:
            space.check([rows[0], rows[1], ragged])
        assert (refused.value.row, refused.value.field) == (2, "genes")


# ---------------------------------------------------------------------- moving about


def test_mutants_stay_inside_and_differ(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    for rate in (None, 0.0, 0.5, 0.9, 1.0):
        mutants = space.mutate(genes, rng, rate)
        assert space.valid(mutants).all()
        np.testing.assert_array_equal(space.canonical(mutants), mutants)
        # Where all choices have two options, a row has a single mutant at rate 1, which may not be valid.
        assert rate == 1.0 or (mutants != genes).any(axis=1).mean() > 0.95
    np.testing.assert_array_equal(
        space.mutate(genes, np.random.default_rng(3)), space.mutate(genes, np.random.default_rng(3))
    )


def in_use(space: SearchSpace, rows: Genes) -> set[tuple[int, int]]:
    """(choice, option) of everything active in some row."""
    row, column = np.nonzero(space.active(rows))
    return set(zip(column.tolist(), rows[row, column].tolist(), strict=True))


def test_mutants_reach_every_option(space: SearchSpace, rng: np.random.Generator) -> None:
    confined, _ = narrowed(space)
    rows, reached = confined.extremes()[[0] * 300], set()
    for _ in range(30):
        rows = confined.mutate(rows, rng)
        assert confined.valid(rows).all()
        reached |= in_use(confined, rows)
    assert reached == in_use(confined, confined.sample(2000, rng))


def test_children_take_after_their_parents(case: str, space: SearchSpace, genes: Genes) -> None:
    left, right = genes, genes[::-1]
    children = space.crossover(left, right, np.random.default_rng(7))
    assert space.valid(children).all()
    # A canonical row may have another gene in every place: the rows that children had before show where genes are from.
    plugin, options = CASES[case]
    as_rows: SearchSpace = load("spaces", plugin)(**options | {"identity": "row"})
    born = as_rows.crossover(left, right, np.random.default_rng(7))
    np.testing.assert_array_equal(space.canonical(born), children)
    assert ((born == left) | (born == right) | ~space.active(born)).all()
    middle = slice(0, len(genes) // 2)
    mixed = (children != left).any(axis=1) & (children != right).any(axis=1)
    assert mixed[middle].mean() > 0.3
    # What is active in one parent alone comes from that parent: nothing comes from a padded place.
    alone = space.active(left) & ~space.active(right) & space.active(born)
    assert (born == left)[alone].all()
    with pytest.raises(ValueError, match="must be equal"):
        space.crossover(left, right[1:], rng)


def test_neighbours_are_all_at_distance_one(space: SearchSpace, genes: Genes) -> None:
    for confined in (space, narrowed(space)[0]):
        own = confined.sample(1, np.random.default_rng(1))
        around = confined.neighbours(own[0])
        assert confined.valid(around).all()
        np.testing.assert_array_equal(confined.canonical(around), around)
        assert len({own[0].tobytes(), *(row.tobytes() for row in around)}) == 1 + len(around)
        # Each single change, one by one.
        expected = set()
        shown = confined.active(own)[0]
        for column in np.flatnonzero(shown):
            for option in np.flatnonzero(confined.allowed[column]):
                row = np.where(shown, own[0], confined.allowed.argmax(axis=1)).astype(np.int8)[None]
                row[0, column] = option
                if confined.valid(row)[0]:
                    expected |= set(confined.keys(row))
        assert set(confined.keys(around)) == expected - set(confined.keys(own))


def test_restriction_masks_and_keeps_keys(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    confined, rules = narrowed(space)
    assert confined.digest == space.digest
    drawn = confined.sample(100, rng)
    assert space.keys(drawn) == confined.keys(drawn)
    for config in confined.to_configs(drawn[confined.active(drawn).all(axis=1)]):
        assert all(config[name] in kept for name, kept in rules.items())
    shown, columns = confined.active(drawn), [choice.name for choice in space.choices]
    for name in rules:
        column = columns.index(name)
        assert not (shown[:, column] & (drawn[:, column] == 0)).any()
        assert (confined.valid(genes) <= ~(space.active(genes)[:, column] & (genes[:, column] == 0))).all()
    outside = genes[~confined.valid(genes)]
    assert len(outside)
    with pytest.raises(InvalidArchitecture, match="restricted"):
        confined.check(outside)
    assert confined.valid(confined.extremes()).all()
    assert space.valid(genes).all(), "the space itself is not changed"


def test_bad_restrictions_are_refused(space: SearchSpace) -> None:
    choice = space.choices[0]
    for rules in ({"no such": [1]}, {choice.name: ["no such"]}, {choice.name: []}):
        with pytest.raises(InvalidSpace):
            space.restrict(rules)


@pytest.mark.parametrize("restricted", [False, True])
def test_sampling_is_uniform_over_architectures(space: SearchSpace, restricted: bool, rng: np.random.Generator) -> None:
    if not space.uniform:
        pytest.skip("does not claim to be uniform")
    listed(space)
    drawn_from = narrowed(space)[0] if restricted else space
    everything = distinct(drawn_from.canonical(listed(drawn_from)))
    index = {row.tobytes(): i for i, row in enumerate(everything)}
    drawn = drawn_from.canonical(drawn_from._draw(60 * len(everything), rng))
    counts = np.bincount([index[row.tobytes()] for row in drawn], minlength=len(everything))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_exhausted_space_returns_what_it_has(space: SearchSpace, rng: np.random.Generator) -> None:
    everything = distinct(space.canonical(listed(space)))
    found = space.sample(3 * len(everything), rng)
    assert sorted(space.keys(found)) == sorted(space.keys(everything))


def test_any_restriction_is_kept(space: SearchSpace) -> None:
    """Also those that leave few canonical rows, or none."""
    rows, rng = listed(space), np.random.default_rng(3)
    for _ in range(12):
        kept = [np.flatnonzero(rng.random(size) < 0.6) for size in space.sizes]
        shown = zip(space.choices, kept, strict=True)
        confined = space.restrict({c.name: [c.options[i] for i in left] for c, left in shown if len(left)})
        left = distinct(confined.canonical(rows[confined.valid(rows)]))
        assert confined.cardinality in ([len(left)] if space.uniform else [len(left), None])
        found = confined.sample(100, rng)
        assert {row.tobytes() for row in found} <= {row.tobytes() for row in left}
        assert len(found) == min(100, len(left))
        with pytest.raises((InvalidArchitecture, Unsupported)):
            confined.from_notation(["no such"])
        if not len(left):
            with pytest.raises(InvalidSpace, match="no architecture"):
                confined.extremes()
        elif "macs" in space.counted:
            macs = confined.cost(left)["macs"]
            assert confined.cost(confined.extremes())["macs"].tolist() == [macs.min(), macs.max()]


# ---------------------------------------------------------------------- cost


def test_costs_are_those_that_are_counted(space: SearchSpace, genes: Genes) -> None:
    costs = space.cost(genes)
    assert costs.keys() == space.counted
    assert all(values.shape == (len(genes),) and values.dtype == np.int64 for values in costs.values())


def test_extremes_bound_the_cost(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    for bounded in (space, narrowed(space)[0]):
        ends = bounded.extremes()
        assert bounded.valid(ends).all()
        assert len(distinct(ends)) == 2
        if "macs" in space.counted:
            smallest, largest = bounded.cost(ends)["macs"]
            macs = bounded.cost(bounded.sample(500, rng))["macs"]
            assert smallest <= macs.min() <= macs.max() <= largest
            assert smallest < largest
        np.testing.assert_array_equal(bounded.canonical(ends), ends)


def test_extremes_are_exact_when_listed(space: SearchSpace) -> None:
    if "macs" not in space.counted:
        pytest.skip("counts no MACs")
    for bounded in (space, narrowed(space)[0]):
        macs = bounded.cost(listed(bounded))["macs"]
        assert bounded.cost(bounded.extremes())["macs"].tolist() == [macs.min(), macs.max()]


def counted(network: nn.Module, read: list[Tensor]) -> dict[str, int]:
    """Parameters, and MACs from the shapes that pass through the network: torch counts two FLOPs for each."""
    # Fused attention on a CPU is not counted, the products it consists of are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        network.eval()(*read)
    return {"params": sum(each.numel() for each in network.parameters()), "macs": flops.get_total_flops() // 2}


def test_torch_counts_what_networks_consist_of() -> None:
    """By hand: a grouped and a strided convolution, a linear layer, a product of activations, attention."""
    a, b = torch.zeros(1, 4, 9, 7), torch.zeros(1, 3, 5, 8)
    for module, read, macs in (
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), [a], 6 * 5 * 4 * 9 * 2),
        (nn.Linear(7, 11), [a], 4 * 9 * 7 * 11),
        (Apply(torch.matmul), [b, b.transpose(2, 3)], 3 * 5 * 5 * 8),
        (Apply(nn.functional.scaled_dot_product_attention), [b, b, b], 2 * 3 * 5 * 5 * 8),
    ):
        assert counted(module, read)["macs"] == macs


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *read: Tensor) -> Tensor:
        return self.function(*read)


def test_analytic_cost_is_the_built_networks(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    rows = np.concatenate([space.extremes(), scrambled(space, genes[:6], rng)])
    costs = space.cost(rows)
    for i, row in enumerate(rows):
        expected = counted(build(space, row), inputs(space, row, 1, rng))
        assert {metric: int(values[i]) for metric, values in costs.items()} == expected


# ---------------------------------------------------------------------- graphs


def test_graphs_are_connected_and_acyclic(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    graphs = space.graphs(genes)
    assert graphs.operations.shape[1] <= space.most_nodes
    assert graphs.adjacency.shape == (len(genes), *[graphs.operations.shape[1]] * 2)
    assert not np.tril(graphs.adjacency).any()
    there = graphs.operations >= 0
    assert (np.diff(there.astype(int), axis=1) <= 0).all(), "padding is at the end"
    assert graphs.operations.max() < len(graphs.labels)
    assert not (graphs.adjacency & ~(there[:, :, None] & there[:, None, :])).any()
    assert graphs.adjacency.any(axis=1)[:, 1:][there[:, 1:]].all(), "every node but the first is fed"
    assert (there.sum(axis=1) - graphs.adjacency.any(axis=2).sum(axis=1) == 1).all(), "one node feeds none: the last"


def test_graphs_differ_where_networks_do(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    if space.identity == "row":
        pytest.skip("rows of one function have one graph")
    graphs = space.graphs(genes)
    prints = {(a.tobytes(), o.tobytes()) for a, o in zip(graphs.adjacency, graphs.operations, strict=True)}
    assert len(prints) == len(genes)
    again = space.graphs(scrambled(space, genes, rng))
    np.testing.assert_array_equal(again.adjacency, graphs.adjacency)
    np.testing.assert_array_equal(again.operations, graphs.operations)


# ---------------------------------------------------------------------- networks


def test_networks_back_propagate(case: str, space: SearchSpace, genes: Genes, rng: np.random.Generator) -> None:
    rows = all_parts_used(case, space, a_few(space, genes)[[0, 2]])
    learning = rows[~cut_off(space, rows)]
    assert len(learning)
    for row in learning:
        network = initialise(build(space, row), rng).train()
        logits = network(*inputs(space, row, 4, rng))
        assert logits.shape[0] == 4
        assert logits.ndim >= 2
        logits.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_building_is_repeatable_and_leaves_the_global_state(space: SearchSpace, genes: Genes) -> None:
    before = torch.get_rng_state()
    one, other = build(space, genes[0]).state_dict(), build(space, genes[0]).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def supernet(space: SearchSpace) -> nn.Module:
    """With noise on every weight and statistic, so that no two slices are equal; double, so that rounding is small."""
    try:
        module = space.supernet().double()
    except Unsupported as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(11)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.from_numpy(rng.random(value.shape)) - 0.5
                value.copy_(1 + noise if name.endswith("running_var") else value * (1 + 0.2 * noise) + 0.05 * noise)
    return module.eval()


def test_sub_networks_equal_their_extracts(
    space: SearchSpace, supernet: Any, genes: Genes, rng: np.random.Generator
) -> None:
    outputs = []
    for row in a_few(space, genes):
        read = [each.double() if each.is_floating_point() else each for each in inputs(space, row, 2, rng)]
        network = supernet.extract(row)
        assert not network.training
        with torch.no_grad():
            expected = supernet(*read, row)
            torch.testing.assert_close(network(*read), expected, rtol=1e-9, atol=1e-9)
        assert sum(p.numel() for p in network.parameters()) == int(space.cost(row[None])["params"][0])
        assert network.state_dict().keys() == build(space, row).state_dict().keys()
        outputs.append(expected.flatten().tolist())
    assert outputs[0] != outputs[1]


def test_extracts_are_copies(space: SearchSpace, supernet: Any, genes: Genes) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = supernet.extract(genes[0]).train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        for value in network.state_dict().values():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_super_networks_refuse_rows_outside_the_space(space: SearchSpace, supernet: Any, genes: Genes) -> None:
    bad = genes[0].copy()
    bad[0] = 127
    with pytest.raises(InvalidArchitecture):
        supernet.extract(bad)
    with pytest.raises(InvalidArchitecture):
        supernet(*inputs(space, genes[0], 1, np.random.default_rng(0)), bad)


# ---------------------------------------------------------------------- plug-ins


def test_loading_every_plugin_leaves_torch_absent() -> None:
    code = (
        "import sys\n"
        "from search_spaces.plugins import load, names\n"
        "for group in ('spaces', 'samplers', 'predictors', 'proxies', 'designers'):\n"
        "    for name in names(group):\n"
        "        load(group, name)\n"
        "        assert 'torch' not in sys.modules, f'{group} {name} imports torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_samplers_give_distinct_valid_rows(space: SearchSpace) -> None:
    for name in names("samplers"):
        sampler = load("samplers", name)
        rows = sampler(space, 4, np.random.default_rng(5))
        assert rows.shape == (4, len(space.choices))
        assert space.valid(rows).all()
        np.testing.assert_array_equal(rows, sampler(space, 4, np.random.default_rng(5)))
