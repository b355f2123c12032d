"""Studies, their fronts, architectures and measurements."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from service.core.objectives import Direction
from service.core.scoring import IMAGES, MINIBATCHES
from service.wire.base import Digest, Json, MetricName, Metrics, Name, Time, Wire
from service.wire.spaces import Resources, Task

Gene = int


class ObjectiveIn(Wire):
    """A metric with a direction."""

    metric: MetricName
    direction: Direction | None = Field(default=None, description="Filled in for metrics that the service knows.")
    bounds: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None,
        description="(ideal, nadir) that scale the hypervolume, in the metric's units. Known for macs, params "
        "(smallest and largest network) and error (0 and chance); needed for any other metric.",
    )


class ObjectiveOut(Wire):
    """An objective with everything filled in."""

    metric: MetricName
    direction: Direction
    bounds: tuple[FiniteFloat, FiniteFloat] = Field(description="(ideal, nadir), in the metric's units.")


class ConstraintSpec(Wire):
    """A bound on a metric; at least one of the two."""

    metric: MetricName
    lower: FiniteFloat | None = Field(default=None, description="Smallest allowed value.")
    upper: FiniteFloat | None = Field(default=None, description="Largest allowed value.")


class EvaluatorSpec(Wire):
    """How architectures are measured."""

    name: str = Field(
        default="supernet",
        description="Name of a `frontier.evaluators` plug-in or of a worker's function; `external`: the user's own "
        "pipeline evaluates; `table`: what a study has measured or imported is replayed.",
    )
    options: Json = Field(
        default_factory=dict,
        description="Its options: recalibration, recipe ... Measurements are shared by studies with equal options.",
    )


class TableOptions(Wire):
    """Options of the evaluator `table`."""

    study: Name | None = Field(default=None, description="The study whose values are replayed; itself if left out.")
    scale: FiniteFloat | None = Field(
        default=0,
        ge=0,
        description="Seconds that a replay takes per second that the values had cost. Null: they count as this study's "
        "own and are found without a replay, as they are where a study replays itself.",
    )


class StudyIn(Wire):
    """A search space, a task and objectives. Objectives never change: clone the study to change them."""

    name: Name
    space: Name
    task: Task
    objectives: list[ObjectiveIn] = Field(min_length=1, max_length=4)
    constraints: list[ConstraintSpec] = Field(default_factory=list, max_length=16)
    metrics: list[MetricName] = Field(default_factory=list, description="Measured too, without being an objective.")
    evaluator: EvaluatorSpec = Field(default_factory=EvaluatorSpec)
    supernet: Name | None = Field(default=None, description="The super-network whose weights are used.")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="All searches derive their randomness from it.")
    resources: Resources = Field(default_factory=Resources, description="What its evaluations need.")


class StudyOut(Wire):
    """A stored study."""

    name: Name
    space: Name
    task: Task
    objectives: list[ObjectiveOut]
    constraints: list[ConstraintSpec]
    metrics: list[MetricName] = Field(description="Everything that is measured, objectives first.")
    evaluator: EvaluatorSpec
    supernet: Name | None
    seed: int
    resources: Resources = Field(description="What a device must have for its evaluations.")
    searches: int = Field(description="Number of searches.")
    measurements: int = Field(description="Number of measurements linked to the study.")
    created_at: Time


class CloneIn(Wire):
    """A study like another one, with all that it measured; what is left out is as it is there."""

    name: Name
    objectives: list[ObjectiveIn] | None = Field(default=None, min_length=1, max_length=4)
    constraints: list[ConstraintSpec] | None = Field(default=None, max_length=16)
    metrics: list[MetricName] | None = Field(
        default=None, description="Measured too, without being an objective; by default all that the other measures."
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**63 - 1, description="All searches derive their randomness from it."
    )
    resources: Resources | None = Field(default=None, description="What its evaluations need.")


class ArchitectureRef(Wire):
    """One architecture, by its configuration or its genes; exactly one of them."""

    config: Json | None = Field(default=None, description="Choice name → option; inactive choices left out.")
    genes: list[Gene] | None = Field(default=None, description="One option index per choice.")


class ArchitectureOut(Wire):
    """A stored architecture and what this study has measured of it."""

    key: str = Field(description="128-bit key, hex, unique within the space's digest.")
    config: Json
    genes: list[Gene]
    metrics: Metrics = Field(description="Measured on the search's split; mean over replicates.")
    test_metrics: Metrics = Field(description="Measured on the test split; only architectures of a front have them.")
    on_front: bool
    graph: Json = Field(description="nodes: list of labels; edges: list of [from, to].")


class FrontPoint(Wire):
    """A non-dominated architecture."""

    key: str
    config: Json
    metrics: Metrics
    test_metrics: Metrics
    trial: int | None = Field(description="Id of the trial that measured it first, if a search did.")
    search: int | None = Field(description="Number of that search in the study.")


class FrontOut(Wire):
    """The Pareto front of a study at its task, weights and highest fidelity."""

    metrics: list[MetricName] = Field(description="The metrics that span the front.")
    points: list[FrontPoint] = Field(description="Sorted by the first metric, best first.")
    hypervolume: float | None = Field(description="Over the study's objectives, scaled; null for other metrics.")
    scaling: list[ObjectiveOut] = Field(description="The scaling of the hypervolume; the reference point is 1.1 each.")
    candidates: int = Field(description="Measured architectures that the front was chosen from.")


class HypervolumeCurve(Wire):
    """How a search's hypervolume grew."""

    search: int = Field(description="Number of the search in the study.")
    designer: str
    evaluations: list[int] = Field(description="1, 2, ... evaluations counted towards the budget, by trial number.")
    hypervolume: list[float] = Field(description="After that many evaluations, scaled; reference point 1.1 each.")


class MeasurementOut(Wire):
    """One value of one metric of one architecture, with how it was obtained."""

    id: int
    key: str = Field(description="The architecture's key.")
    metric: MetricName
    value: FiniteFloat
    spread: float | None = Field(
        description="Distance between the quartiles of what the value is the median of; of the score by a zero-cost "
        "proxy over several initialisations, their standard deviation."
    )
    context: Json = Field(description="Everything the value depends on.")
    attempt: int = Field(description="0 is the value, later ones are replicates.")
    seconds: float = Field(description="Seconds paid for it.")
    worker: str | None
    created_at: Time


class ExportIn(Wire):
    """Asks for the trained network of one architecture as files."""

    formats: list[Literal["onnx", "torch"]] = Field(default=["onnx", "torch"], min_length=1)


class ScoreIn(Wire):
    """Asks for zero-cost proxies of architectures."""

    proxies: list[str] = Field(
        min_length=1,
        max_length=64,
        description="Names of `frontier.proxies` plug-ins; or of aggregates, which rank the architectures asked for "
        "among each other once their columns are scored: ask again when the jobs have ended.",
    )
    architectures: list[ArchitectureRef] | None = Field(default=None, description="These; or `sample` of them.")
    sample: int | None = Field(default=None, ge=1, le=100_000, description="That many, drawn from the space.")
    seed: int = Field(default=0, ge=0, description="Draws the sample, the images and the initialisations.")
    batch: int = Field(default=IMAGES, ge=2, le=4096, description="Training images in a minibatch.")
    minibatches: int = Field(
        default=MINIBATCHES,
        ge=2,
        le=64,
        description="Minibatches for proxies that need several; others take the first.",
    )
    repeats: int = Field(
        default=1, ge=1, le=64, description="Initialisations of each network; a score is the mean over them."
    )
    rows: bool = Field(default=False, description="Answer what is known of each architecture, too.")
    queue: bool = Field(default=True, description="False: queue nothing, only answer what is known.")


class ArtifactOut(Wire):
    """A stored file."""

    digest: Digest
    size: int = Field(description="Bytes.")
