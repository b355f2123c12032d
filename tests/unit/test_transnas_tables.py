"""TransNAS-Bench-101's published tables: what its networks cost, and which of them train alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces.cells import EDGES, Cells, live
from search_spaces.space import Genes, SearchSpace
from search_spaces.transnas_macro import TransNasMacro
from search_spaces.transnas_micro import OPERATIONS, TransNasMicro
from tests.shared import SHARED, needs_shared

MICRO, ROWS, MACRO = TransNasMicro(), TransNasMicro(identity="row"), TransNasMacro()
CLASSES = {"class_object": 100, "class_scene": 63, "room_layout": 9}
"""Outputs of the networks whose costs were tabled."""


def table(kind: str, name: str, *columns: str) -> dict[str, Any]:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = SHARED / f"data/transnas_{kind}/{name}.parquet"
    return parquet.read_table(path, columns=["arch", *columns]).to_pydict()  # type: ignore[no-any-return]


def costs(kind: str, task: str) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Architectures, parameters and FLOPs of one task; stored as 32-bit floats of millions."""
    found = table(kind, "proxies_timed", "task", "params_m", "flops_m")
    rows = [row for row, of in enumerate(found["task"]) if of == task]
    params, flops = (np.array(found[name])[rows] for name in ("params_m", "flops_m"))
    return [found["arch"][row] for row in rows], params, flops


def assert_same(counts: Any, published: NDArray[np.float64]) -> None:
    """Equal up to the rounding of a count in millions to 32 bits."""
    assert len(counts) > 300
    np.testing.assert_array_equal((counts / 1e6).astype(np.float32), published.astype(np.float32))


# ---------------------------------------------------------------------- what the tables count beside MACs

# The counter behind the tables adds two operations per output of a batch norm, one per input of a ReLU, and
# (side + 1)² per channel that is pooled globally. A bias is not counted.


def beside_the_cells(resolution: int, width: int, side: int) -> int:
    """In the stem and the pooling of 64 channels and up."""
    half, quarter = resolution // 2, resolution // 4
    return (2 + 1) * 32 * half**2 + 2 * 64 * quarter**2 + width * (side + 1) ** 2


def micro_surcharge(genes: Genes, resolution: int) -> NDArray[np.int64]:
    """(n,) in the networks of 41414: the side and the channels of each cell, and what its operations add."""
    result = np.zeros(len(genes), dtype=np.int64)
    width, side = 64, resolution // 4
    for code, repeat in itertools.product("41414", range(2)):
        reads = width * side**2
        if (code, repeat) == ("4", 0):
            width, side = 2 * width, side // 2
        after = width * side**2
        for edge, (start, _) in enumerate(EDGES):
            before = after if start else reads
            weighted = (genes[:, edge] > 1) | ((genes[:, edge] == 1) & (before != after))
            result += weighted * (2 * after + before)
    return result + beside_the_cells(resolution, width, side)


def macro_surcharge(codes: str, resolution: int) -> int:
    width, side, result = 64, resolution // 4, 0
    for code in codes:
        reads = width * side**2
        width, side = width * (2 if code in "24" else 1), side // (2 if code in "34" else 1)
        after = width * side**2
        # Four convolutions with ReLU and batch norm, and the batch norm of a shortcut that changes the shape.
        result += 4 * 2 * after + reads + 3 * after + (code != "1") * 2 * after
    return result + beside_the_cells(resolution, width, side)


# ---------------------------------------------------------------------- published tables


@needs_shared
@pytest.mark.parametrize("task", CLASSES)
def test_costs_are_the_published_ones(task: str) -> None:
    """All rows, dead operations included, at 256 × 256 pixels: parameters and FLOPs, both exact."""
    texts, params, flops = costs("micro", task)
    space: SearchSpace = TransNasMicro(classes=CLASSES[task], identity="row")
    genes = space.from_notation(texts)
    counted = space.cost(genes)
    assert_same(counted["params"], params)
    assert_same(counted["macs"] + micro_surcharge(genes, 256), flops)
    texts, params, flops = costs("macro", task)
    space = TransNasMacro(classes=CLASSES[task])
    counted = space.cost(space.from_notation(texts))
    assert_same(counted["params"], params)
    assert_same(counted["macs"] + [macro_surcharge(text, 256) for text in texts], flops)


@needs_shared
def test_costs_of_the_jigsaw() -> None:
    """Nine tiles of 64 × 64 pixels pass the encoder, of which one was counted, and are classified together."""
    tiles, outputs = 9, 1000
    for kind, space in (
        ("micro", TransNasMicro(resolution=64, classes=outputs, identity="row")),
        ("macro", TransNasMacro(resolution=64, classes=outputs)),
    ):
        texts, params, flops = costs(kind, "jigsaw")
        genes = space.from_notation(texts)
        doublings = [sum(code in "24" for code in text) for text in texts] if kind == "macro" else 3
        halvings = [sum(code in "34" for code in text) for text in texts] if kind == "macro" else 3
        widths, sides = np.left_shift(64, doublings), np.right_shift(16, halvings)
        counted, more = space.cost(genes), (tiles - 1) * widths
        assert_same(counted["params"] + more * outputs, params)
        if kind == "micro":
            surcharge = micro_surcharge(genes, 64)
        else:
            surcharge = np.array([macro_surcharge(text, 64) for text in texts])
        assert_same(counted["macs"] + surcharge + more * (outputs + (sides + 1) ** 2), flops)


@needs_shared
@pytest.mark.parametrize("task", ["autoencoder", "normal", "segmentsemantic"])
def test_pixel_tasks_add_a_decoder(task: str) -> None:
    """What it costs depends on the channels and the side of what it reads alone: the encoders are the same."""
    for kind, space in (("micro", ROWS), ("macro", MACRO)):
        texts, params, flops = costs(kind, task)
        genes = space.from_notation(texts)
        counted, chains = space.cost(genes), ["41414"] * len(texts) if kind == "micro" else texts
        surcharge = micro_surcharge(genes, 256) if kind == "micro" else [macro_surcharge(text, 256) for text in texts]
        more = np.stack([params * 1e6 - counted["params"], flops * 1e6 - counted["macs"] - surcharge])
        shapes = [(sum(code in "24" for code in chain), sum(code in "34" for code in chain)) for chain in chains]
        for shape in set(shapes):
            decoder = more[:, [other == shape for other in shapes]]
            # 32-bit floats of 6e7 and 8e10.
            assert (np.ptp(decoder, axis=1) <= (4, 8_192)).all()
            assert (decoder.min(axis=1) > (7e6, 3e8)).all()


@needs_shared
def test_cut_off_cells_are_those_at_chance() -> None:
    """Digits and edges have been read in two ways: only this one makes just the cut-off cells score the same."""
    found = table("micro", "accuracy", "val_class_object", "val_class_scene")
    genes = MICRO.from_notation(found["arch"])
    cut_off = (MICRO.canonical(genes) == 0).all(axis=1)
    assert cut_off.sum() == 86
    for name in ("val_class_object", "val_class_scene"):
        accuracy = np.array(found[name])
        chance = accuracy[cut_off][0]
        np.testing.assert_array_equal(accuracy == chance, cut_off)


@needs_shared
def test_cells_without_dead_operations_are_those_of_the_table() -> None:
    """GRAF (Kadlecova et al., ICML 2024) left out all cells in which an operation is cut off."""
    texts = table("micro", "accuracy")["arch"]
    genes = MICRO.from_notation(texts)
    alive = (live(genes) == (genes > 0)).all(axis=1)
    assert {text for text, keep in zip(texts, alive, strict=True) if keep} == set(
        table("micro", "class_scene_proxies")["arch"]
    )


@needs_shared
def test_cells_of_one_class_train_alike() -> None:
    """Trained apart they differ by the seed; were skips from the first node contracted, unequal cells would meet."""
    found = table("micro", "accuracy", "val_class_object")
    genes, accuracy = MICRO.from_notation(found["arch"]), np.array(found["val_class_object"])
    canonical = MICRO.canonical(genes)
    kept = canonical.any(axis=1)
    canonical, accuracy = canonical[kept], accuracy[kept]

    def pooled(groups: Any) -> float:
        _, group, size = np.unique(groups, return_inverse=True, return_counts=True, axis=0)
        group = group.ravel()
        rest = accuracy - (np.bincount(group, weights=accuracy) / size)[group]
        return float(np.sqrt((rest**2).sum() / (len(rest) - len(size))))

    assert pooled(canonical) == pytest.approx(0.625, abs=0.01)
    contracted = Cells(OPERATIONS, taps=(0, 0, 1, 9)).canonical(canonical)
    assert pooled(contracted) > 2 * pooled(canonical)


@needs_shared
def test_published_strings_are_read_and_written() -> None:
    for kind, space, count in (("micro", ROWS, 2_048), ("macro", MACRO, 1_628)):
        texts = table(kind, "accuracy")["arch"]
        genes = space.from_notation(texts)
        assert space.notation(genes) == texts
        assert len(set(space.keys(genes))) == count
        form = "64-41414-{}_{}{}_{}{}{}" if kind == "micro" else "64-{}-basic"
        official = [form.format(*text.split("-")) for text in texts]
        np.testing.assert_array_equal(space.from_notation(official), genes)
