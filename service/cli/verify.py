"""``frontier search verify``: works at the database, not over REST, because it asks designers again."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.common import CommandError, Home, out, settings_with
from service.cli.db import opened
from service.cli.processes import DatabaseUrl


def verify(
    search: Annotated[int, typer.Argument(min=1, help="Id of the search.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Ask every ask of a search again from what was stored, and compare (same library versions and machine type)."""
    from service.controller import Stepper
    from service.db.artifacts import ArtifactStore

    settings = settings_with(home=home, database_url=database_url)
    with opened(home=settings.home, database_url=settings.database) as database:
        asks, wrong = Stepper(database, ArtifactStore(settings.artifact_folder)).verify(search)
    for mismatch in wrong:
        same = sum(then == now for then, now in zip(mismatch.stored, mismatch.again, strict=False))
        out.print(f"ask {mismatch.ask}: {same} of {len(mismatch.stored)} suggestions are the same")
    if wrong:
        raise CommandError(f"{len(wrong)} of {asks} asks of search {search} now suggest something else")
    out.print(f"search {search}: all {asks} asks suggest again what is stored")
