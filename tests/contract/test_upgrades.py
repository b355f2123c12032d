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
from sqlalchemy import Connection, Engine, MetaData, create_engine, insert, select, text, update

from service.controller import Stepper
from service.core.evaluators import EXTERNAL
from service.core.states import OPEN, SearchState, State
from service.db import checks, cloning, confirmations, events, front, own, predictors, queue, searches, studies
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.db.tables import Base, Job, StudyMeasurement
from service.wire.confirmations import ConfirmIn
from service.wire.studies import CloneIn, FrontOut, ObjectiveIn
from service.wire.trials import SuggestIn, TrialCompleteIn
from tests.world import World, advance

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


def id_of(released: Rows, table: str, name: str) -> int:
    return next(int(row["id"]) for row in released[table] if row["name"] == name)


def linked(released: Rows) -> list[int]:
    """Numbers of the links of the study `study`; the first schema knew none, which counts as 0."""
    study = id_of(released, "studies", "study")
    return sorted(row.get("number", 0) for row in released["study_measurements"] if row["study_id"] == study)


def taken_back(database: Database) -> int:
    """Takes back all leases, which ran out long ago; their jobs need not wait for the pause that follows."""
    with database.write() as s:
        number = queue.expire(s)
    with database.write() as s:
        s.execute(update(Job).values(not_before=None))
    return number


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
    study = id_of(released, "studies", "study")
    ended = [row for row in released["trials"] if row["state"] == State.SUCCEEDED]
    measured = [row["metrics"] for row in ended if row["study_id"] == study]
    kept = [(row["error"], row["macs"]) for row in measured if row["params"] <= LARGEST_PARAMS]
    best = {a for a in kept if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in kept)}
    found = found_front(World(upgraded))
    assert {(point.metrics["error"], point.metrics["macs"]) for point in found.points} == best
    assert found.candidates == len(kept)
    assert any(point.test_metrics for point in found.points)


def test_work_goes_on_where_it_stood(released: Rows, upgraded: Database, tmp_path: Path) -> None:
    world = World(upgraded)
    finished, running = (id_of(released, "searches", name) for name in ("finished", "running"))
    still_open = [row for row in released["jobs"] if row["state"] in OPEN]
    assert taken_back(upgraded) == sum(row["state"] == State.LEASED for row in still_open)
    leases = world.lease()
    assert {each.job for each in leases} == {row["id"] for row in still_open if row["needs_evaluator"] != EXTERNAL}
    world.complete(leases)
    assert set(world.states(running)) == {"SUCCEEDED", "FAILED", "INFEASIBLE"}

    stepper = Stepper(upgraded, ArtifactStore(tmp_path))
    with upgraded.write() as s:
        assert searches.get(s, finished).state == SearchState.DONE
        searches.set_state(s, running, "cancel")
        searches.extend(s, finished, 20)
    assert advance(upgraded, stepper)
    world.complete(world.lease())
    advance(upgraded, stepper)
    with upgraded.read() as s:
        assert searches.get(s, finished).state == SearchState.DONE
        assert searches.get(s, finished).counts.succeeded == 20
    found = list(checks.run(upgraded, ArtifactStore(tmp_path)))
    assert [each for each in found if not each.ok and each.name != "artifacts"] == []


def test_a_pipeline_goes_on_where_it_stood(released: Rows, upgraded: Database, tmp_path: Path) -> None:
    known = {row["name"]: row for row in released["searches"]}
    if "pipeline" not in known:
        pytest.skip("the release had no trials over REST")
    taken_back(upgraded)
    search, budget = known["pipeline"]["id"], known["pipeline"]["budget"]
    with upgraded.write() as s:
        taken = own.suggest(s, search, SuggestIn(worker="pipeline", count=budget)).trials
    assert len(taken) == budget - known["pipeline"]["completions"]
    for trial in taken:
        with upgraded.write() as s:
            own.complete(s, trial.trial, TrialCompleteIn(token=trial.token, metrics={"error": 0.5}, seconds=1.0))
    advance(upgraded, Stepper(upgraded, ArtifactStore(tmp_path)))
    with upgraded.read() as s:
        ended = searches.get(s, search)
    assert (ended.state, ended.counts.succeeded) == (SearchState.DONE, budget)


def test_devices_are_those_that_workers_announced(released: Rows, upgraded: Database) -> None:
    if "devices" in released:
        pytest.skip("the release had a registry of its own")
    announced = {row["device"]["name"]: row for row in released["workers"]}
    devices = {row["name"]: row for row in read(upgraded.engine)["devices"]}
    assert devices.keys() == announced.keys()
    for name, worker in announced.items():
        for field in ("type", "memory_mb", "software"):
            assert devices[name][field] == worker["device"][field]
        assert devices[name]["created_at"] <= worker["created_at"]
        assert devices[name]["last_seen_at"] >= worker["last_seen_at"]


def test_what_the_queue_got_new_is_as_if_nobody_had_asked_for_it(released: Rows, upgraded: Database) -> None:
    if "devices" in released:
        pytest.skip("the release had it already")
    rows = read(upgraded.engine)
    assert {(row["share"], row["priority"], row["turn"]) for row in rows["searches"]} == {(1.0, 0, 0.0)}
    for table, columns in {
        "jobs": ("failure", "needs_device_type", "needs_memory_mb"),
        "trials": ("earlier",),
        "studies": ("resources",),
        "supernets": ("resources",),
        "measurements": ("spread",),
    }.items():
        assert {row[column] for row in rows[table] for column in columns} == {None}


def test_what_is_new_works_on_what_is_old(released: Rows, upgraded: Database) -> None:
    world = World(upgraded)
    finished = id_of(released, "searches", "finished")
    before = found_front(world)
    with upgraded.write() as s:
        confirmation = confirmations.create(s, finished, ConfirmIn(best=2, seeds=2))
        copy, new = cloning.clone(s, "study", CloneIn(name="copy", objectives=[ObjectiveIn(metric="error")]))
    assert (new, copy.measurements) == (True, len(linked(released)))
    taken_back(upgraded)
    with upgraded.write() as s:
        searches.set_state(s, id_of(released, "searches", "running"), "cancel")
    world.complete(world.lease())
    with upgraded.read() as s:
        assert confirmations.get(s, confirmation.id).done == 2 * len(confirmation.architectures)
        numbers = [event.number for event in events.after(s, 0, limit=1000)]
        assert numbers == list(range(1, events.last(s) + 1))
        assert numbers[-1] > max(row["number"] for row in released["events"])
        links = select(StudyMeasurement.number).where(StudyMeasurement.study_id == studies.row(s, "study").id)
        linked_now, linked_before = sorted(s.scalars(links)), linked(released)
        assert linked_now[: len(linked_before)] == linked_before
        assert all(number in numbers for number in linked_now[len(linked_before) :])
        assert predictors.page(s, 10).items[0].state == State.SUCCEEDED
        (point,) = front.front(s, "copy").points
        assert point.metrics["error"] == min(each.metrics["error"] for each in before.points)
    assert found_front(world) == before
