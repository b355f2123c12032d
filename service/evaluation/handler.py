"""Jobs: kind → function.

A handler takes (payload, toolbox, report, checkpoint) and returns the result, both JSON of the types in
`service.wire.payloads`. ``report`` is the heartbeat, and raises `Stop` or `LeaseLost`, which a handler lets through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from search_spaces.networks.memory import ran_out
from search_spaces.plugins import UnknownPlugin, load
from search_spaces.space import Genes, InvalidArchitecture, SearchSpace, Unsupported
from service.core.errors import Infeasible, Invalid, OutOfMemory
from service.core.latency import VERSION
from service.core.metrics import Scope, metric
from service.core.scoring import Scoring
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.datasets import Dataset
from service.evaluation.evaluator import Candidate, Evaluation, Evaluator
from service.evaluation.export import export
from service.evaluation.function import call
from service.evaluation.memory import Memory, release
from service.evaluation.options import parse
from service.evaluation.predicting import fit, predict
from service.evaluation.replay import replay
from service.evaluation.scoring import Scorer, score
from service.evaluation.supernet_training import train_supernet
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.jobs import JobKind
from service.wire.payloads import EvaluatePayload, EvaluateResult, LatencyOut

Handler: TypeAlias = Callable[[Json, Toolbox, Report, bytes | None], Json]


def evaluate(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Measures one architecture with the evaluator that the study names: a plug-in, or a function of this worker."""
    asked = parse(EvaluatePayload, payload, "payload")
    function = toolbox.functions.get(asked.evaluator.name)
    if function is not None:
        return _result(Evaluation(call(function, asked, report)), toolbox)
    space = space_of(asked.space)
    try:
        plugin = load("evaluators", asked.evaluator.name)
    except UnknownPlugin as error:
        raise Invalid("evaluator.name", str(error), allowed=error.known) from error
    evaluator: Evaluator = plugin(asked.evaluator.options)
    row, dataset = rows_of(space, [asked.genes])[0], toolbox.dataset(asked.dataset, asked.dataset_digest)
    proxies = [name for name in asked.metrics if metric(name).scope is Scope.INITIAL]
    # First, since they cost next to nothing: what is undefined need not be trained.
    scores = _scores(proxies, space, row, dataset, asked.seed, toolbox, report) if proxies else {}
    others = tuple(name for name in asked.metrics if name not in scores)
    if proxies and not others:
        return _result(Evaluation(scores), toolbox)
    candidate = Candidate(
        space=space,
        row=row,
        dataset=dataset,
        split=asked.split,
        weights=asked.weights,
        metrics=others,
        fidelity=asked.fidelity,
        seed=asked.seed,
    )
    found = evaluator.evaluate(candidate, toolbox, report, checkpoint)
    return _result(replace(found, metrics={**found.metrics, **scores}), toolbox)


def _scores(
    proxies: Sequence[str],
    space: SearchSpace,
    row: Genes,
    dataset: Dataset,
    seed: int,
    toolbox: Toolbox,
    report: Report,
) -> dict[str, float]:
    """Zero-cost proxies of the untrained network, as jobs of kind ``score`` give them. Raises `Infeasible` where one is
    not defined."""
    memory = Memory(toolbox.device_name, lambda note: report(0, 1, note))
    report(0, 1, f"scoring {', '.join(proxies)}")
    found = Scorer(toolbox, dataset, proxies, Scoring(), seed).score(space, row, memory)
    for name, reason in found.undefined.items():
        raise Infeasible(f"{name} is not defined: {reason}")
    return found.values


def _result(found: Evaluation, toolbox: Toolbox) -> Json:
    latency = found.latency
    result = EvaluateResult(
        metrics=dict(found.metrics),
        device=toolbox.device_name,
        spreads=found.spreads,
        batch=found.batch,
        latency=None
        if latency is None
        else LatencyOut(
            protocol=VERSION,
            passes=latency.repeats,
            rounds=latency.rounds,
            noise=latency.noise,
            noisy=latency.noisy,
            clocks=latency.clocks,
        ),
    )
    return result.model_dump(mode="json", exclude_defaults=True)


HANDLERS: Mapping[JobKind, Handler] = {
    JobKind.EVALUATE: evaluate,
    JobKind.EXPORT: export,
    JobKind.FIT: fit,
    JobKind.PREDICT: predict,
    JobKind.REPLAY: replay,
    JobKind.SCORE: score,
    JobKind.TRAIN_SUPERNET: train_supernet,
}


def handle(kind: JobKind, payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Runs a job. What ends it is one of the error tree's, or a bug.

    Raises:
        Invalid: the payload, or something it names, is wrong; carries the field.
        Infeasible: the architecture cannot be built, or its training diverged.
        OutOfMemory: the device's memory did not suffice.
        Stop, LeaseLost: from ``report``.
    """
    handler = HANDLERS.get(kind)
    if handler is None:
        raise Invalid("kind", f"this worker runs {', '.join(HANDLERS)}, not {kind}")
    try:
        return handler(payload, toolbox, report, checkpoint)
    except (InvalidArchitecture, Unsupported) as error:
        raise Infeasible(str(error)) from error
    except OutOfMemory as error:
        said = error.message
    except Exception as error:
        if not ran_out(error):
            raise
        said = f"out of memory on {toolbox.device_name}: {str(error) or type(error).__name__}"
    # The errors held what the pass had made: with them gone, the next job finds the memory free. Super-networks that
    # were loaded before may be what there was no room beside.
    toolbox.unload()
    release()
    raise OutOfMemory(said)
