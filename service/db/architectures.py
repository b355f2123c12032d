"""Architectures, stored once per space digest by their key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.space import Genes, SearchSpace
from service.core.errors import NotFound
from service.db.rows import chunks, insert_new
from service.db.tables import Architecture, now


def ensure(s: Session, space: SearchSpace, genes: Genes) -> list[int]:
    """Ids of rows (n, d), in their order; what is new is stored, as its canonical row."""
    canonical = np.ascontiguousarray(space.canonical(genes))
    keys = space.keys(canonical)
    digest, time = space.digest, now()
    by_key = {key: row.tobytes() for key, row in zip(keys, canonical, strict=True)}
    # Sorted, so that two writers who share architectures never wait for each other in a circle.
    wanted = sorted(by_key)
    ids: dict[str, int] = {}
    for some in chunks(wanted):
        rows = [{"space_digest": digest, "key": key, "genes": by_key[key], "created_at": time} for key in some]
        insert_new(s, Architecture, rows)
        query = select(Architecture.key, Architecture.id).where(
            Architecture.space_digest == digest, Architecture.key.in_(some)
        )
        ids.update(s.execute(query).all())
    return [ids[key] for key in keys]


def row(s: Session, digest: str, key: str) -> Architecture:
    """One architecture of a space digest, or `NotFound`."""
    query = select(Architecture).where(Architecture.space_digest == digest, Architecture.key == key)
    found = s.scalars(query).one_or_none()
    if found is None:
        raise NotFound("architecture", key)
    return found


def unpack(rows: Sequence[bytes], choices: int) -> Genes:
    """Stored rows as genes (n, d)."""
    return np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), choices)
