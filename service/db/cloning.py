"""Clones of studies: the same space, task, evaluator and measurements, with other objectives."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service.db import ending, studies
from service.db.rows import body_of, refuse_other
from service.db.spaces import row as space_row
from service.db.tables import Study, Supernet
from service.wire.base import Json
from service.wire.studies import CloneIn, StudyIn, StudyOut

_SOURCE = "clone_of"


def clone(s: Session, source_name: str, body: CloneIn) -> tuple[StudyOut, bool]:
    """Stores a study that links all that the source links at this moment; the bool says whether it is new.

    The new study stands on its own: what either measures later is the other's only through the ledger. The same clone
    again is answered as it is; another study under the name is a `Conflict`. Raises `Invalid` as a new study does.
    """
    # Locked, so that two equal requests make one clone.
    source = studies.row(s, source_name, lock=True)
    wanted = _study_in(s, source, body)
    given = {**body_of(wanted), _SOURCE: source.name}
    stored = studies.find(s, body.name)
    if stored is not None:
        refuse_other("study", body.name, stored.body, given, StudyIn)
        return studies.get(s, body.name), False
    studies.create(s, wanted)
    made = studies.row(s, body.name)
    made.body = given
    ending.copy_links(s, source.id, made.id)
    # The links are there with the commit.
    linked = studies.get(s, source.name).measurements
    return studies.get(s, body.name).model_copy(update={"measurements": linked}), True


def _study_in(s: Session, source: Study, body: CloneIn) -> StudyIn:
    supernet = None if source.supernet_id is None else s.get_one(Supernet, source.supernet_id).name
    kept: Json = {
        "space": space_row(s, source.space_id).name,
        "task": source.task,
        "objectives": source.objectives,
        "constraints": source.constraints,
        "metrics": source.metrics,
        "evaluator": source.evaluator,
        "supernet": supernet,
        "seed": source.seed,
        "resources": source.resources or {},
    }
    return StudyIn.model_validate({**kept, **body.model_dump(mode="json", exclude_none=True)})
