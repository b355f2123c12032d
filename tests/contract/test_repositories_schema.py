"""Migrations and sessions, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from service.core.errors import Conflict, Invalid
from service.db import events
from service.db.session import Database
from service.db.tables import Base, Counter, StudyMeasurement

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.dispose()


def _differences(database: Database) -> list[object]:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        return list(compare_metadata(context, Base.metadata))


def test_an_empty_database_is_brought_to_what_the_code_says(empty: Database) -> None:
    assert empty.schema_problem() is not None
    empty.upgrade()
    assert empty.schema_problem() is None
    assert _differences(empty) == []
    with empty.read() as s:
        assert s.get_one(Counter, "events").value == 0


def test_a_difference_would_be_seen(empty: Database) -> None:
    empty.upgrade()
    with empty.write() as s:
        s.execute(text("ALTER TABLE jobs ADD COLUMN surplus INTEGER"))
    assert len(_differences(empty)) == 1


def test_upgrading_again_changes_nothing(empty: Database) -> None:
    empty.upgrade()
    with empty.write() as s:
        events.emit(s, "ask")
    empty.upgrade()
    with empty.read() as s:
        assert events.last(s) == 1


def test_processes_that_start_together_upgrade_once(empty_url: str) -> None:
    program = "import sys; from service.db.session import Database; Database(sys.argv[1]).upgrade()"
    command = [sys.executable, "-c", program, empty_url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    database = Database(empty_url)
    assert database.schema_problem() is None
    database.dispose()


def test_a_newer_schema_is_refused_in_words(database: Database) -> None:
    with database.write() as s:
        s.execute(text("UPDATE alembic_version SET version_num = 'f00d'"))
    with pytest.raises(Conflict, match=r"schema f00d.*newer release"):
        database.upgrade()
    assert "f00d" in (database.schema_problem() or "")


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        Database("oracle://somewhere")
    assert caught.value.field == "database_url"


def test_every_table_is_there(database: Database) -> None:
    names = set(inspect(database.engine).get_table_names())
    assert names == {*Base.metadata.tables, "alembic_version"}


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as s:
        s.add(StudyMeasurement(study_id=1, measurement_id=1))


def test_a_reader_sees_one_moment(database: Database) -> None:
    with database.read() as s:
        assert events.last(s) == 0
        with database.write() as other:
            events.emit(other, "ask")
        assert events.last(s) == 0
        assert events.after(s, 0) == []
    with database.read() as s:
        assert events.last(s) == 1


def test_a_reader_cannot_write_and_holds_up_no_writer(database: Database) -> None:
    reading, written = threading.Event(), threading.Event()

    def write() -> None:
        reading.wait(10)
        with database.write() as s:
            events.emit(s, "ask")
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    with database.read() as s:
        events.last(s)
        reading.set()
        assert written.wait(30)
        s.add(Counter(name="surplus", value=1))
    writer.join()
    with database.read() as s:
        assert s.get(Counter, "surplus") is None


def test_counting_up_loses_nothing_among_processes(database: Database, database_url: str) -> None:
    """What a write session reads stays true until it commits, once its row is locked. A `Database` for each thread,
    since threads of one process queue before SQLite's own lock."""

    def add() -> None:
        own = Database(database_url)
        for _ in range(10):
            with own.write() as s:
                counter = s.get_one(Counter, "events", with_for_update=True)
                counter.value += 1
        own.dispose()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as s:
        assert events.last(s) == 40
