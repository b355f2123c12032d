"""The MobileNetV3 super-network against published values, and the tools around it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces.mobilenetv3 import MobileNetV3, scaled
from search_spaces.networks.initialise import initialise
from search_spaces.space import Genes
from search_spaces.supernets.calibrate import accuracy, recalibrate
from search_spaces.supernets.checkpoint import BadCheckpoint, dump_weights, load_weights
from search_spaces.supernets.elastic import ElasticDepthwise
from search_spaces.supernets.images import augment, resize
from search_spaces.supernets.samplers import sandwich
from tests.shared import SHARED, needs_shared

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

DIGITS = MobileNetV3(**scaled((1, 8, 8), 10))
FOLDER = SHARED / "reference/ofa_mbv3"


def once_for_all() -> tuple[MobileNetV3, dict[str, Tensor], Tensor, list[dict[str, Any]]]:
    with np.load(FOLDER / "weights.npz", allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    images = arrays.pop("x")
    return (
        MobileNetV3(width_mult=0.25, classes=10),
        arrays,
        images,
        json.loads((FOLDER / "subnets.json").read_text())["subnets"],
    )


def row_of(space: MobileNetV3, subnet: dict[str, Any]) -> Genes:
    config: dict[str, Any] = {"resolution": 128}
    for stage, depth in enumerate(subnet["d"]):
        config[f"stage{stage + 1}.depth"] = depth
        for block in range(depth):
            config[f"stage{stage + 1}.block{block + 1}.kernel"] = subnet["ks"][4 * stage + block]
            config[f"stage{stage + 1}.block{block + 1}.expand"] = subnet["e"][4 * stage + block]
    return space.from_configs([config])[0]


@needs_shared
def test_sub_networks_give_the_published_logits() -> None:
    space, weights, images, subnets = once_for_all()
    supernet = space.supernet().eval()
    assert set(supernet.state_dict()) == set(weights)
    supernet.load_state_dict(weights)
    assert len(subnets) == 5
    for subnet in subnets:
        row, expected = row_of(space, subnet), torch.tensor(subnet["logits"])
        network = supernet.extract(row)
        with torch.no_grad():
            torch.testing.assert_close(supernet(images, row), expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-4)
        assert sum(parameter.numel() for parameter in network.parameters()) == subnet["params_of_extracted"]
        assert int(space.cost(row[None])["params"][0]) == subnet["params_of_extracted"]


@needs_shared
def test_checkpoints_of_before_the_rename_load() -> None:
    space, weights, images, subnets = once_for_all()
    old = {name.replace(".conv.", ".mobile_inverted_conv.", int(name.startswith("blocks"))): value
           for name, value in weights.items()}  # fmt: skip
    assert old.keys() != weights.keys()
    supernet, kept = space.supernet().eval(), dict(old)
    supernet.load_state_dict(old)
    assert old.keys() == kept.keys(), "the caller's dictionary is left alone"
    with torch.no_grad():
        logits = supernet(images, row_of(space, subnets[2]))
    torch.testing.assert_close(logits, torch.tensor(subnets[2]["logits"]), rtol=0, atol=1e-4)


def test_smaller_kernels_are_transformed_centres() -> None:
    """7 → 5 → 3, each through its own matrix; with the identity, plain centres."""
    layer = ElasticDepthwise(4, [3, 7, 5], stride=1)
    kernel = layer.conv.weight
    torch.testing.assert_close(layer.weight(3, 3), kernel[:3, :, 2:5, 2:5])
    torch.testing.assert_close(layer.weight(4, 7), kernel)
    with torch.no_grad():
        for matrix in (layer.get_parameter("7to5_matrix"), layer.get_parameter("5to3_matrix")):
            matrix.copy_(torch.rand(matrix.shape))
    five = kernel[:, 0, 1:6, 1:6].flatten(1) @ layer.get_parameter("7to5_matrix").T
    three = five.view(-1, 5, 5)[:, 1:4, 1:4].flatten(1) @ layer.get_parameter("5to3_matrix").T
    torch.testing.assert_close(layer.weight(4, 3), three.view(-1, 1, 3, 3))


def test_training_touches_the_selected_slice_alone() -> None:
    supernet = DIGITS.supernet().train()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    smallest, largest = DIGITS.extremes()
    supernet(torch.randn(8, 1, 5, 5), smallest).square().sum().backward()
    block = "blocks.1.conv.inverted_bottleneck"
    gradient = supernet.get_parameter(f"{block}.conv.conv.weight").grad
    statistics = supernet.state_dict()[f"{block}.bn.bn.running_mean"]
    used = DIGITS.layout(smallest).blocks[1].middle
    assert used < len(statistics)
    assert gradient is not None
    assert gradient[:used].abs().sum() > 0
    assert gradient[used:].abs().sum() == 0
    assert (statistics[:used] != before[f"{block}.bn.bn.running_mean"][:used]).all()
    assert torch.equal(statistics[used:], before[f"{block}.bn.bn.running_mean"][used:])
    deepest = "blocks.3.conv.point_linear.conv.conv.weight"
    assert supernet.get_parameter(deepest).grad is None, "a block beyond the depth is not run"
    supernet(torch.randn(8, 1, 8, 8), largest).square().sum().backward()
    assert all(parameter.grad is not None for parameter in supernet.parameters() if parameter.ndim != 2), "all is used"


def test_recalibration_averages_batch_statistics() -> None:
    rng = np.random.default_rng(0)
    network = DIGITS.supernet().extract(DIGITS.extremes()[1])
    batches = [torch.from_numpy(rng.standard_normal((n, 1, 8, 8), dtype=np.float32)) for n in (64, 64, 20)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recalibrate(network, batches)
    with torch.no_grad():
        outputs = [network.first_conv[0](batch) for batch in batches]
    share = torch.tensor([64, 64, 20]) / 148
    mean = sum(w * y.mean((0, 2, 3)) for w, y in zip(share, outputs, strict=True))
    variance = sum(w * y.var((0, 2, 3)) for w, y in zip(share, outputs, strict=True))
    after = network.state_dict()
    torch.testing.assert_close(after["first_conv.bn.running_mean"], mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["first_conv.bn.running_var"], variance, rtol=1e-4, atol=1e-6)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in after if name.endswith(statistics)}
    assert not any(module.training for module in network.modules())
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_recalibration_restores_modes_and_refuses_nothing() -> None:
    network = DIGITS.supernet().extract(DIGITS.extremes()[0]).train()
    network.classifier.eval()
    with pytest.raises(ValueError, match="no batches"):
        recalibrate(network, [])
    assert network.training
    assert not network.classifier.training
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_accuracy_counts_the_right_ones() -> None:
    images = torch.eye(4).repeat(50, 1).view(200, 4, 1, 1)
    labels = torch.arange(200) % 4
    labels[:30] = (labels[:30] + 1) % 4
    assert accuracy(nn.Flatten(), images, labels, batch_size=64) == pytest.approx(170 / 200)
    for wrong in (labels[:10], labels[:0]):
        with pytest.raises(ValueError, match="images"):
            accuracy(nn.Flatten(), images[: 2 * len(wrong)], wrong)


def test_resizing() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert resize(images, 8) is images
    # Every other pixel of a checkerboard would be all black: smoothing keeps its grey.
    board = (torch.arange(16)[:, None] + torch.arange(16)[None, :]).remainder(2).float()[None, None]
    torch.testing.assert_close(resize(board, 8)[..., 1:-1, 1:-1], torch.full((1, 1, 6, 6), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(resize(torch.full((1, 1, 4, 6), 3.0), 9), torch.full((1, 1, 9, 9), 3.0))


def test_augmentation() -> None:
    image = torch.arange(1.0, 17).view(1, 1, 4, 4).repeat(400, 2, 1, 1)
    assert augment(image, np.random.default_rng(0)) is image
    moved = augment(image, np.random.default_rng(0), crop=1)
    padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
    windows = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    counts = [int((moved == window).all(dim=(1, 2, 3)).sum()) for window in windows]
    assert sum(counts) == 400
    assert min(counts) > 20
    flipped = augment(image, np.random.default_rng(0), flip=True)
    mirrored = int((flipped == image.flip(-1)).all(dim=(1, 2, 3)).sum())
    assert int((flipped == image).all(dim=(1, 2, 3)).sum()) == 400 - mirrored
    assert 150 < mirrored < 250
    torch.testing.assert_close(augment(image, np.random.default_rng(0), crop=1), moved)


def test_the_sandwich() -> None:
    rows = sandwich(DIGITS, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(rows[:2], DIGITS.extremes()[::-1])
    assert len(rows) == 5
    assert (sandwich(DIGITS, 5, np.random.default_rng(1))[2:] != rows[2:]).any()
    np.testing.assert_array_equal(sandwich(DIGITS, 2, np.random.default_rng(0)), DIGITS.extremes()[::-1])
    confined = DIGITS.restrict({"resolution": [6, 7]})
    assert confined.valid(sandwich(confined, 5, np.random.default_rng(0))).all()
    with pytest.raises(ValueError, match="at least 2"):
        sandwich(DIGITS, 1, np.random.default_rng(0))


def test_initial_weights_follow_from_the_generator() -> None:
    supernet, before = DIGITS.supernet(), torch.get_rng_state()
    initialise(supernet, np.random.default_rng(1))
    first = {name: value.clone() for name, value in supernet.state_dict().items()}
    with torch.no_grad():
        for value in supernet.state_dict().values():
            value.fill_(7)
    again = initialise(supernet, np.random.default_rng(1)).state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.items()), "nothing of the past is left"
    other = initialise(supernet, np.random.default_rng(2)).state_dict()
    assert not torch.equal(other["first_conv.conv.weight"], first["first_conv.conv.weight"])
    assert torch.equal(torch.get_rng_state(), before)
    wide = initialise(nn.Conv2d(64, 512, 3), np.random.default_rng(0))
    assert float(wide.weight.detach().std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    with pytest.raises(TypeError, match="PReLU"):
        initialise(nn.Sequential(nn.PReLU()), np.random.default_rng(0))


def test_weights_survive_and_others_are_refused() -> None:
    supernet = initialise(DIGITS.supernet(), np.random.default_rng(3))
    data = dump_weights(supernet)
    other = DIGITS.supernet()
    load_weights(other, data)
    assert all(torch.equal(value, supernet.state_dict()[name]) for name, value in other.state_dict().items())
    with pytest.raises(BadCheckpoint, match="not a checkpoint of this network"):
        load_weights(MobileNetV3(**scaled((1, 8, 8), 11)).supernet(), data)
    for garbage in (b"", b"\x80\x04pickle", data[:100]):
        with pytest.raises(BadCheckpoint):
            load_weights(other, garbage)
