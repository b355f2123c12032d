"""Databases of released schemas are upgraded with everything in them, and work goes on; on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, create_engine, insert, select, text

from service.controller import Controller
from service.core.states import SearchState, State
from service.db import cloning, confirmations, events, front, predictors, queue, searches, studies
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.db.tables import Base, StudyMeasurement
from service.wire.confirmations import ConfirmIn
from service.wire.studies import CloneIn, FrontOut, ObjectiveIn
from tests.world import World

FILES = sorted((Path(__file__).parents[1] / "data").glob("schema-*.db"))
MIGRATIONS = Path(__file__).parents[2] / "migrations"
LARGEST_PARAMS = 20_000

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a released database."""
    return Path(shutil.copy(request.param, tmp_path / "released.db"))


@pytest.fixture
def released(file: Path) -> Rows:
    """What the file holds."""
    engine = create_engine(f"sqlite:///{file}")
    rows = read(engine)
    engine.dispose()
    return rows


@pytest.fixture
def upgraded(file: Path, released: Rows, empty_url: str) -> Iterator[Database]:
    """The file's rows under the newest schema."""
    if empty_url.startswith("sqlite"):
        empty_url = f"sqlite:///{file}"
    else:
        load(empty_url, released)
    database = Database(empty_url)
    assert database.schema_problem() is not None
    database.upgrade()
    yield database
    database.dispose()


def read(engine: Engine) -> Rows:
    """Table → its rows, as the table itself says what they are."""
    with engine.connect() as connection:
        tables = reflected(connection).sorted_tables
        return {
            table.name: [
                {name: aware(value) for name, value in row._mapping.items()}
                for row in connection.execute(select(table))
            ]
            for table in tables
        }


def load(url: str, rows: Rows) -> None:
    """Puts rows of a release into an empty PostgreSQL database, under the release's schema."""
    engine = create_engine(url)
    ((version,),) = (row.values() for row in rows["alembic_version"])
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, version)
        for table in reflected(connection).sorted_tables:
            connection.execute(table.delete())
            for row in rows[table.name]:
                # One by one, without what is absent: a reflected JSON column takes None for JSON's null.
                connection.execute(insert(table), {name: value for name, value in row.items() if value is not None})
            if "id" in table.columns:
                behind = f"setval(pg_get_serial_sequence('{table.name}', 'id'), max(id))"
                connection.execute(text(f"SELECT {behind} FROM {table.name} HAVING max(id) IS NOT NULL"))
    engine.dispose()


def reflected(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata


def aware(value: object) -> object:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def found_front(world: World) -> FrontOut:
    with world.database.read() as s:
        return front.front(s, "study")


def test_there_is_a_file_for_every_released_schema() -> None:
    newest = max(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    names = {path.stem[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")} - {newest[:4]}
    assert {path.stem.removeprefix("schema-") for path in FILES} >= names


def test_nothing_is_lost_or_changed(released: Rows, upgraded: Database) -> None:
    assert upgraded.schema_problem() is None
    with upgraded.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []
    after = read(upgraded.engine)
    for table, rows in released.items():
        if table != "alembic_version":
            assert rows, f"{table} is empty in the file: it shows nothing"
            kept = [{name: row[name] for name in rows[0]} for row in after[table]]
            assert [row for row in rows if row not in kept] == [], table
            # A migration may count something new; what people and workers made is neither more nor less.
            assert len(kept) == len(rows) or table == "counters", table


def test_the_front_is_that_of_the_stored_trials(released: Rows, upgraded: Database) -> None:
    measured = [row["metrics"] for row in released["trials"] if row["state"] == State.SUCCEEDED]
    kept = [(row["error"], row["macs"]) for row in measured if row["params"] <= LARGEST_PARAMS]
    best = {a for a in kept if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in kept)}
    found = found_front(World(upgraded))
    assert {(point.metrics["error"], point.metrics["macs"]) for point in found.points} == best
    assert found.candidates == len(kept)
    assert any(point.test_metrics for point in found.points)


def test_work_goes_on_where_it_stood(released: Rows, upgraded: Database, tmp_path: Path) -> None:
    world = World(upgraded)
    finished, running = (next(r["id"] for r in released["searches"] if r["name"] == n) for n in ("finished", "running"))
    still_open = {row["id"] for row in released["trials"] if row["state"] in ("QUEUED", "LEASED")}
    with upgraded.write() as s:
        assert queue.expire(s) == 1
    leases = world.lease()
    assert {row["trial_id"] for row in released["jobs"] if row["id"] in {lease.job for lease in leases}} == still_open
    world.complete(leases)
    assert set(world.states(running)) == {"SUCCEEDED", "FAILED", "INFEASIBLE"}

    controller = Controller(upgraded, ArtifactStore(tmp_path), "later", lease_s=30, poll_s=0)
    with upgraded.write() as s:
        assert searches.get(s, finished).state == SearchState.DONE
        searches.set_state(s, running, "cancel")
        searches.extend(s, finished, 20)
    assert controller.pass_once()
    world.complete(world.lease())
    controller.pass_once()
    with upgraded.read() as s:
        assert searches.get(s, finished).state == SearchState.DONE
        assert searches.get(s, finished).counts.succeeded == 20


def test_what_is_new_works_on_what_is_old(released: Rows, upgraded: Database) -> None:
    world = World(upgraded)
    finished = next(row["id"] for row in released["searches"] if row["name"] == "finished")
    before = found_front(world)
    with upgraded.write() as s:
        confirmation = confirmations.create(s, finished, ConfirmIn(best=2, seeds=2))
        copy, new = cloning.clone(s, "study", CloneIn(name="copy", objectives=[ObjectiveIn(metric="error")]))
    assert (new, copy.measurements) == (True, len(released["study_measurements"]))
    with upgraded.write() as s:
        searches.set_state(s, next(row["id"] for row in released["searches"] if row["name"] == "running"), "cancel")
    world.complete(world.lease())
    with upgraded.read() as s:
        assert confirmations.get(s, confirmation.id).done == 2 * len(confirmation.architectures)
        numbers = [event.number for event in events.after(s, 0, limit=1000)]
        assert numbers == list(range(1, events.last(s) + 1))
        assert numbers[-1] > max(row["number"] for row in released["events"])
        own = select(StudyMeasurement.number).where(StudyMeasurement.study_id == studies.row(s, "study").id)
        linked = sorted(s.scalars(own))
        assert linked[: len(released["study_measurements"])] == [0] * len(released["study_measurements"])
        assert all(number in numbers for number in linked[len(released["study_measurements"]) :])
        assert predictors.page(s, 10).items[0].state == State.SUCCEEDED
        (point,) = front.front(s, "copy").points
        assert point.metrics["error"] == min(each.metrics["error"] for each in before.points)
    assert found_front(world) == before
