"""Search spaces under names."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.space import SearchSpace
from service.core.errors import NotFound
from service.core.spaces import build_space
from service.db.paging import slice_of
from service.db.rows import insert_new, refuse_other
from service.db.tables import Space, now
from service.wire.base import Page
from service.wire.spaces import ChoiceOut, SpaceIn, SpaceOut


def create(s: Session, body: SpaceIn) -> tuple[SpaceOut, bool]:
    """Stores a space; the bool says whether it is new. Another definition under a stored name is a `Conflict`."""
    space = build_space(body.plugin, body.options, body.identity)
    values = {
        "name": body.name,
        "plugin": body.plugin,
        "options": dict(space.options),
        "identity": body.identity,
        "digest": space.digest,
        "choices": [{"name": choice.name, "options": list(choice.options)} for choice in space.choices],
        "created_at": now(),
    }
    new = bool(insert_new(s, Space, [values], Space.id))
    stored = row(s, body.name)
    if not new and stored.digest != space.digest:
        kept = {"plugin": stored.plugin, "identity": stored.identity, "options": stored.options}
        refuse_other("space", body.name, kept, {field: values[field] for field in kept})
    return _view(stored), new


def get(s: Session, name: str) -> SpaceOut:
    """One space, or `NotFound`."""
    return _view(row(s, name))


def page(s: Session, size: int, token: str | None = None) -> Page[SpaceOut]:
    """Spaces in the order in which they were made."""
    rows, following = slice_of(s, select(Space), [Space.id], size, token)
    return Page(items=[_view(found[0]) for found in rows], next_page_token=following)


def row(s: Session, name: str | int) -> Space:
    """The stored row, by name or id; `NotFound` if there is none."""
    column = Space.id if isinstance(name, int) else Space.name
    found = s.scalars(select(Space).where(column == name)).one_or_none()
    if found is None:
        raise NotFound("space", name)
    return found


def load(stored: Space) -> SearchSpace:
    """The space itself; cached, since building its cost tables takes a while."""
    return build_space(stored.plugin, stored.options, stored.identity)


def _view(stored: Space) -> SpaceOut:
    return SpaceOut(
        name=stored.name,
        plugin=stored.plugin,
        options=stored.options,
        identity=stored.identity,
        digest=stored.digest,
        choices=[ChoiceOut(**choice) for choice in stored.choices],
        created_at=stored.created_at,
    )
