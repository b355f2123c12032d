"""The benchmarks of proxies: references are what was published, runs go on where they stopped."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import proxies, proxy_correlation, proxy_floor, proxy_references, proxy_scores, proxy_setup, proxy_speed
from benchmarks.proxy_scores import Scored
from predictors.proxies import measure
from predictors.proxies.signals import Signals
from search_spaces import plugins
from search_spaces.nasbench201 import NasBench201
from tests.shared import SHARED, needs_shared

CPU = torch.device("cpu")
TINY = proxy_speed.Sizes(batch=8, repeats=2, reference_repeats=1, channels=2, cells=1, resolution=8)


@needs_shared
def test_references_give_published_scores():
    layers = {
        "conv1": nn.Conv2d(3, 8, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(8),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 3, stride=2, padding=1),
        "bn2": nn.BatchNorm2d(16),
        "relu2": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "classifier": nn.Linear(16, 10),
    }
    network = nn.Sequential(OrderedDict(layers))
    folder = SHARED / "reference" / "proxies"
    with np.load(folder / "plain.npz", allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    x, y = arrays.pop("x"), arrays.pop("y")
    assert not network.load_state_dict(arrays, strict=False).unexpected_keys
    draws = Signals(network, [(x, y)]).generator
    for name, value in json.loads((folder / "scores.json").read_text())["plain"]["scores"].items():
        expected = math.log(value) if name == "synflow" else value
        assert proxy_references.run(name, network, [(x, y)], draws) == pytest.approx(expected, rel=1e-4), name


def test_every_proxy_has_a_reference():
    assert [name for name in plugins.names("proxies") if not proxy_references.known(name)] == []


def test_speeds_of_a_tiny_network():
    names = ["gradsign", "synflow", "macs"]
    rows, floors = proxy_speed.speeds(names, ["best"], TINY, CPU)
    assert [row["proxy"] for row in rows] == [*names, "family"]
    for row in rows:
        assert row["relative_error"] <= 2e-3
        assert row["seconds"] > 0
        assert row["steps"] == row["seconds"] / row["plain_step_seconds"]
        assert row["speedup"] == row["reference_seconds"] / row["seconds"]
    json.dumps(rows + floors, allow_nan=False)


def test_the_floor_counts_what_the_space_counts():
    space = NasBench201(identity="row", channels=2, cells=1, resolution=8)
    genes = space.from_notation([proxy_speed.CELLS["best"]])
    costs = {name: int(count[0]) for name, count in space.cost(genes).items()}
    batch = (torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    found = proxy_floor.floor(space.build(genes[0]), batch, 1.0)
    stem = 9 * 3 * 2 * 64
    assert found.step_macs == 4 * (3 * costs["macs"] - stem)
    norms = sum(part.numel() for name, part in space.build(genes[0]).named_parameters() if part.ndim == 1)
    assert found.gradient_bytes == 4 * 4 * (costs["params"] - norms)
    assert found.seconds > 1.0


def test_batches_are_shifted_and_mirrored_within_black_margins():
    rng = np.random.default_rng(0)
    images = np.broadcast_to(np.arange(1, 11, dtype=np.float32).reshape(10, 1, 1, 1), (10, 3, 32, 32))
    x, y = proxy_setup.draw_batch(images, np.arange(10), 10, rng, CPU)
    assert sorted(y.tolist()) == list(range(10))
    for image, label in zip(x, y, strict=True):
        inside = image[0] == label + 1
        # A constant image: what is not margin is a rectangle of at least 28 × 28.
        assert int(inside.any(0).sum()) * int(inside.any(1).sum()) == int(inside.sum()) >= 28 * 28
        assert bool((image[0][~inside] < 0).all())


def test_networks_have_torchs_initialisation_from_the_generator():
    space = NasBench201(identity="row", channels=4, cells=1)
    row = space.from_notation([proxy_speed.CELLS["best"]])[0]
    before = torch.random.get_rng_state()
    one, same, other = (proxy_setup.network_of(space, row, np.random.default_rng(seed), CPU) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [network.stem[0].weight.detach() for network in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(weights[0].abs().max()) <= 27**-0.5  # Uniform within 1 / √inputs.


@needs_shared
def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(proxy_scores, "BATCH", 4)
    table = proxy_setup.read_table(NasBench201(identity="row"))
    assert proxy_scores.chosen(50, 3, table)[:20] == proxy_scores.chosen(20, 3, table)
    macs = NasBench201(identity="row").cost(table.genes)["macs"]
    rows = [int(row) for row in np.flatnonzero(table.connected)[np.argsort(macs[table.connected])][:2]]
    kept = tmp_path / "kept.ndjson"
    first, fresh, _ = proxy_scores.score(["params", "macs"], rows[:1], 0, table, CPU, kept)
    assert fresh == 1
    with kept.open("a") as file:
        file.write('{"idx": 1, "see')  # Stopped in the middle of a line.
    again, fresh, _ = proxy_scores.score(["params", "macs"], rows, 0, table, CPU, kept)
    assert (again[0], fresh) == (first[0], 1)
    assert [each.scores["macs"] for each in again] == [float(macs[row]) for row in rows]
    # What was scored after the torn line is found too, and another seed is another run.
    assert proxy_scores.score(["macs"], rows, 0, table, CPU, kept)[1] == 0
    assert proxy_scores.score(["macs"], rows[:1], 1, table, CPU, kept)[1] == 1


def test_the_version_ignores_words_and_sees_code():
    source = 'def f(x):\n    """Words."""\n    return x + 1\n'
    assert proxy_scores.code(source) == proxy_scores.code("def f(x):\n    # Other words.\n    return x + 1")
    assert proxy_scores.code(source) != proxy_scores.code(source.replace("1", "2"))


def made_up(rng: np.random.Generator) -> proxy_setup.Table:
    """Cells of which every other has a dead operation and every eighth does not depend on its input."""
    count = 160
    accuracy = rng.random(count) * 80 + 10
    return proxy_setup.Table(
        genes=NasBench201(identity="row").sample(count, rng),
        connected=np.arange(count) % 8 != 0,
        whole=np.arange(count) % 2 == 0,
        accuracy=accuracy,
        published={"synflow": np.where(np.arange(count) == 2, np.nan, -accuracy)},
    )


def test_correlations_are_of_connected_cells_that_have_scores():
    table = made_up(np.random.default_rng(0))
    scored = []
    for idx, accuracy in enumerate(table.accuracy):
        gone = {"synflow": f"cells.{idx}.op: {idx} signs differ"} if idx % 8 == 0 or idx == 4 else {}
        scores = {"macs": 1.0 if idx % 8 == 0 else accuracy, **({} if gone else {"synflow": -accuracy})}
        scored.append(Scored(idx, 0, "v", "cpu", 1.0, scores, gone))
    synflow, macs = proxy_correlation.correlate(["synflow", "macs"], scored, table, seed=0)
    assert synflow["cells"] == 139
    assert synflow["spearman"]["value"] == pytest.approx(-1)
    assert synflow["undefined_connected"] == {"…: … signs differ": 1}
    assert synflow["undefined_disconnected"] == {"…: … signs differ": 20}
    assert (macs["cells"], macs["scored_disconnected"]) == (140, 20)
    assert macs["kendall"]["value"] == pytest.approx(1)
    # Even, not a multiple of 8, neither 2 (not published) nor 4 (not defined): 160 / 2 − 20 − 2.
    same = synflow["same_cells"]
    assert (same["cells"], same["between"]["value"], same["least"], same["met"]) == (58, pytest.approx(1), 0.95, True)
    assert macs["same_cells"] is None


def test_results_can_be_printed(capsys):
    table = made_up(np.random.default_rng(1))
    scored = [Scored(i, 0, "v", "cpu", 1.0, {"synflow": float(i)}, {}) for i in range(30)]
    rows = proxy_correlation.correlate(["synflow"], scored, table, seed=0)
    result = {"sample": 30, "seed": 0, "disconnected": 4, "scored_now": 0, "seconds": 0.1, "rows": rows}
    proxy_correlation.show(result | {"architectures_per_s": 1.0})
    printed = capsys.readouterr().out
    assert "test_acc_200" in printed
    assert "30 cells drawn uniformly" in printed


def test_a_run_of_the_whole(monkeypatch, capsys):
    monkeypatch.setattr(proxy_speed, "QUICK", TINY)
    monkeypatch.setattr(
        "sys.argv", ["proxies", "--quick", "--networks", "random", "--proxies", "macs", "--threads", "1"]
    )
    proxies.main()
    assert "random" in capsys.readouterr().out


def test_measure_gets_the_draws_that_references_get():
    space = NasBench201(identity="row", channels=2, cells=2, resolution=8)
    rng = np.random.default_rng(0)
    network = proxy_setup.network_of(space, space.from_notation([proxy_speed.CELLS["best"]])[0], rng, CPU)
    batch = (torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8))
    draws = Signals(network, [batch], seed=int(np.random.default_rng(5).integers(2**31))).generator
    for name in ("zen", "linear_regions", "az_expressivity"):
        ours = measure(network, [batch], [name], np.random.default_rng(5))[name]
        assert ours == pytest.approx(proxy_references.run(name, network, [batch], draws), rel=1e-5)
