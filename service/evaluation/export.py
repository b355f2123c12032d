"""Job ``export``: a sub-network as ONNX and as a torch program that needs nothing but torch to be loaded.

The torch file is a `torch.export` program: a graph and plain tensors, no Python code. It is used like this::

    program = torch.export.load("network.pt2")
    logits = program.module()(images)          # (n, c, h, w) float32, normalised

Both files carry JSON under ``frontier``: how images are normalised, the classes, the architecture.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.space import Genes
from search_spaces.supernets.supernet import Supernet
from service.core.errors import Invalid
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.evaluator import Candidate
from service.evaluation.judging import batches, calibration_rows
from service.evaluation.options import parse
from service.evaluation.supernet import SupernetEvaluator
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import ExportPayload, ExportResult

INPUT, OUTPUT, NOTES = "images", "logits", "frontier"
_COMPARED = 256
"""Validation images on which a file's outputs are compared with the super-network's."""

Logits = NDArray[np.float32]


def export(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Extracts and recalibrates as evaluation does, writes the files, reads them back and compares their outputs.

    ``max_abs_diff`` is against the sub-network as selected *inside* the super-network, recalibrated there with the
    same images: logits of up to 256 validation images, in one batch and one by one.
    """
    asked = parse(ExportPayload, payload, "payload")
    if asked.evaluator.name != "supernet":
        raise Invalid(
            "evaluator.name", f"networks of evaluator supernet can be exported, not of {asked.evaluator.name}"
        )
    evaluator = SupernetEvaluator(asked.evaluator.options)
    space = space_of(asked.space)
    dataset = toolbox.dataset(asked.dataset, asked.dataset_digest)
    candidate = Candidate(
        space, rows_of(space, [asked.genes])[0], dataset, "validation", asked.weights, ("error",), 1.0, asked.seed
    )
    steps = len(asked.formats) + 1
    report(0, steps, "extracting")
    network = evaluator.extract(candidate, toolbox).cpu()
    images, expected = _expected(candidate, toolbox, evaluator.options.recalibration_images)
    notes = _notes(candidate)
    files: dict[str, str] = {}
    differences: dict[str, float] = {}
    for step, form in enumerate(asked.formats, start=1):
        report(step, steps, f"writing {form}")
        data, run = (_onnx if form == "onnx" else _torch)(network, images[:2], notes)
        differences[form] = max(_difference(run(images), expected), _difference(run(images[:1]), expected[:1]))
        files[form] = toolbox.artifacts.put(data)
    report(steps, steps, "exported")
    result = ExportResult(files=files, max_abs_diff=differences, input_shape=list(candidate.shape))
    return result.model_dump(mode="json")


def _notes(candidate: Candidate) -> str:
    train = candidate.dataset.splits["train"]
    genes = candidate.row[None]
    notes: dict[str, Any] = {
        "key": candidate.space.keys(genes)[0],
        "config": candidate.space.to_configs(genes)[0],
        "dataset": candidate.dataset.name,
        "classes": candidate.dataset.classes,
        "input_shape": list(candidate.shape),
        "mean": [float(value) for value in train.mean],
        "std": [float(value) for value in train.std],
        "normalisation": "(pixel - mean) / std per channel, pixels as they are in the data set; then resized",
    }
    return json.dumps(notes, sort_keys=True)


# ---------------------------------------------------------------------- what the outputs must be


def _expected(candidate: Candidate, toolbox: Toolbox, calibrated_with: int) -> tuple[Tensor, Logits]:
    """Images (n, c, h, w) and the super-network's logits for them (n, classes), both on the CPU."""
    assert candidate.weights is not None  # noqa: S101  — the payload's type says so
    resolution, device = candidate.shape[-1], toolbox.device
    supernet = toolbox.supernet(candidate.space, candidate.weights)
    if calibrated_with:
        train = candidate.dataset.splits["train"]
        rows = calibration_rows(len(train), calibrated_with, candidate.seed)
        supernet = copy.deepcopy(supernet)
        _calibrate_inside(supernet, candidate.row, [images for images, _ in batches(train, resolution, device, rows)])
    chosen = np.arange(min(_COMPARED, len(candidate.images)))
    images = next(batches(candidate.images, resolution, device, chosen, _COMPARED))[0]
    with torch.inference_mode():
        logits: Logits = supernet.eval()(images, candidate.row).cpu().numpy()
    return images.cpu().contiguous(), logits


@torch.no_grad()
def _calibrate_inside(supernet: Supernet, row: Genes, images: list[Tensor]) -> None:
    """What `recalibrate` does to an extracted network, done to the sub-network where it is."""
    norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
    supernet.train()
    seen = 0
    for batch in images:
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen
        supernet(batch, row)


def _difference(found: Logits, expected: Logits) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max())


# ---------------------------------------------------------------------- the formats


class _Program:
    """An exported program, read back from its bytes."""

    def __init__(self, data: bytes) -> None:
        self._module = torch.export.load(io.BytesIO(data)).module()

    def __call__(self, images: Tensor) -> Logits:
        with torch.inference_mode():
            logits: Logits = self._module(images).numpy()
        return logits


class _Session:
    """An ONNX model in onnxruntime, on one thread of the CPU."""

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Logits:
        logits: Logits = self._session.run([OUTPUT], {INPUT: images.numpy()})[0]
        return logits


def _traced(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (images,), dynamic_shapes=({0: batch},))


def _torch(network: nn.Module, images: Tensor, notes: str) -> tuple[bytes, _Program]:
    stream = io.BytesIO()
    extra: Mapping[str, Any] = {f"{NOTES}.json": notes}
    torch.export.save(_traced(network, images), stream, extra_files=dict(extra))
    return stream.getvalue(), _Program(stream.getvalue())


def _onnx(network: nn.Module, images: Tensor, notes: str) -> tuple[bytes, _Session]:
    program = torch.onnx.export(
        _traced(network, images),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the ONNX exporter returned nothing")
    program.model.metadata_props[NOTES] = notes
    data: bytes = program.model_proto.SerializeToString()
    return data, _Session(data)
