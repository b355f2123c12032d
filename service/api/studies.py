"""Studies: what was measured, the front, and what can be asked of their architectures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.api.deps import (
    COMMON,
    DEFAULT_PAGE,
    LONGEST_INTEGER,
    Db,
    NameInPath,
    PageSize,
    PageToken,
    created,
)
from service.api.documents import problems
from service.api.spaces import NEW
from service.api.transactions import Write, transaction
from service.db import cloning, exports, front, population, proxies, scored, standing, studies
from service.wire.base import MetricName, Page
from service.wire.jobs import JobOut, ScoreOut
from service.wire.population import PopulationOut, Rows
from service.wire.searches import PredictedOut
from service.wire.standing import ProxyStandings
from service.wire.studies import (
    ArchitectureOut,
    CloneIn,
    ExportIn,
    FrontOut,
    HypervolumeCurve,
    MeasurementOut,
    ScoreIn,
    StudyIn,
    StudyOut,
)

router = APIRouter(prefix="/v1", tags=["studies"], dependencies=COMMON)

Key = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="The architecture's key, 32 hex digits.")]


@router.post("/studies", status_code=201, responses={**NEW, **problems(404, 409)})
@transaction
def create_study(body: StudyIn, s: Write, response: Response) -> StudyOut:
    """Create a study.

    Fixes space, task and objectives. The same body under the same name answers the stored study.
    """
    study, new = studies.create(s, body)
    created(response, new)
    return study


@router.get("/studies")
def list_studies(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[StudyOut]:
    """List studies."""
    with db.read() as session:
        return studies.page(session, page_size, page_token)


@router.get("/studies/{study}", responses=problems(404))
def get_study(study: NameInPath, db: Db) -> StudyOut:
    """Get a study."""
    with db.read() as session:
        return studies.get(session, study)


@router.post("/studies/{study}:clone", status_code=201, responses={**NEW, **problems(404, 409)})
@transaction
def clone_study(study: NameInPath, body: CloneIn, s: Write, response: Response) -> StudyOut:
    """Clone a study.

    The same space, task, evaluator, super-network and measurements, with other objectives: its front is there at once.
    Searches and trials stay with the source.
    """
    made, new = cloning.clone(s, study, body)
    created(response, new)
    return made


@router.get("/studies/{study}/front", responses=problems(404))
def get_front(
    study: NameInPath,
    db: Db,
    metrics: Annotated[
        list[MetricName] | None,
        Query(max_length=4, description="Metrics that span the front; the objectives if left out."),
    ] = None,
) -> FrontOut:
    """Get the Pareto front.

    Non-dominated architectures at the study's task, weights and highest fidelity; constraints applied.
    """
    with db.read() as session:
        return front.front(session, study, metrics)


@router.post("/studies/{study}/front:test", status_code=202, responses=problems(404, 409))
@transaction
def test_front(study: NameInPath, s: Write) -> list[JobOut]:
    """Measure the front on the test split.

    Queues one job for each architecture of the front that has no test values yet. They are no trials, and no search
    sees them.
    """
    return exports.test_front(s, study)


@router.get("/studies/{study}/population", responses=problems(404))
def get_population(
    study: NameInPath,
    db: Db,
    metric: Annotated[MetricName, Query(description="The metric whose values are described.")],
    rows: Annotated[
        Rows, Query(description="drawn: probes, random searches' trials and imports; all: what searches chose as well.")
    ] = "drawn",
    rules: Annotated[
        str | None,
        Query(max_length=4_000, description='A restriction, JSON: {"choice": [options that are left, ...], ...}.'),
    ] = None,
) -> PopulationOut:
    """Get the distribution of a metric over measured architectures.

    Its empirical distribution function with a bootstrap band, which choices shift it, and the same of those that a
    restriction leaves. Of more than 20,000 architectures so many are drawn.
    """
    kept = population.rules_of(rules)
    with db.read() as session:
        found = population.sample(session, study, metric, rows)
    return population.describe(found, kept)


@router.get("/studies/{study}/proxies", responses=problems(404))
def get_proxies(
    study: NameInPath,
    db: Db,
    metric: Annotated[MetricName, Query(description="The measured metric that scores are compared with.")],
    rows: Annotated[
        Rows, Query(description="drawn: probes, random searches' trials and imports; all: what searches chose as well.")
    ] = "drawn",
    proxies: Annotated[
        list[MetricName] | None,
        Query(
            max_length=scored.MOST_PROXIES,
            description="Scores to compare, any measured metrics; by default all zero-cost proxies that were scored.",
        ),
    ] = None,
) -> ProxyStandings:
    """Get what zero-cost proxies are worth in a study.

    How their scores rank what was measured of the same architectures, overall and within the best tenth, with 95 %
    bootstrap intervals; what a score costs; and each beside MACs and parameters. Of more than 2,000 architectures so
    many are drawn.
    """
    with db.read() as session:
        found = scored.sample(session, study, metric, rows, proxies or ())
    return standing.describe(found)


@router.get("/studies/{study}/hypervolume", responses=problems(404))
def get_hypervolume(study: NameInPath, db: Db) -> list[HypervolumeCurve]:
    """Get the hypervolume of each search over its evaluations."""
    with db.read() as session:
        return front.hypervolume(session, study)


@router.get("/studies/{study}/predicted", responses=problems(404))
def get_predicted(
    study: NameInPath,
    db: Db,
    metric: Annotated[MetricName, Query(description="The predicted metric.")],
    search: Annotated[
        int | None, Query(ge=1, le=LONGEST_INTEGER, description="Id of a search; all of the study if left out.")
    ] = None,
) -> PredictedOut:
    """Get predictions beside measurements.

    Each prediction was made before its architecture was measured. Rank correlations are on probes alone.
    """
    with db.read() as session:
        return front.predicted(session, study, metric, search)


@router.get("/studies/{study}/measurements", responses=problems(404))
def list_measurements(
    study: NameInPath, db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None
) -> Page[MeasurementOut]:
    """List measurements of a study."""
    with db.read() as session:
        return front.measurements(session, study, page_size, page_token)


@router.get("/studies/{study}/architectures/{key}", responses=problems(404))
def get_architecture(study: NameInPath, key: Key, db: Db) -> ArchitectureOut:
    """Get an architecture and what the study measured of it."""
    with db.read() as session:
        return front.architecture(session, study, key)


@router.post("/studies/{study}/architectures/{key}:export", status_code=202, responses=problems(404, 409))
@transaction
def export_architecture(study: NameInPath, key: Key, body: ExportIn, s: Write) -> JobOut:
    """Export an architecture's trained network.

    The job's result names the files as artifacts, and how far their outputs are from the super-network's.
    """
    return exports.export(s, study, key, body)


@router.post("/studies/{study}/proxies:score", status_code=202, responses=problems(404, 409))
@transaction
def score_proxies(study: NameInPath, body: ScoreIn, s: Write) -> ScoreOut:
    """Score untrained architectures by zero-cost proxies.

    What is scored is not scored again: the same request continues, and with `rows` it answers what is known by then.
    """
    return proxies.score(s, study, body)
