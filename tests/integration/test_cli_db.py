"""`frontier db`: checks that find what is wrong, backups while work goes on, and restores that refuse or are whole."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, inspect, select, text

from service.backup import make, restore
from service.controller import Stepper
from service.core.states import OPEN, SearchState, State
from service.db import artifacts, events, queue, retries, searches, snapshots
from service.db.artifacts import ArtifactStore
from service.db.session import Database, newest_revision
from service.db.tables import Artifact, Trial, now
from service.wire.jobs import RESET, JobsIn
from tests.commands import Ran, Run, runner
from tests.contract.test_upgrades import FILES, load, read
from tests.world import World, advance

PATIENCE_S = 60.0
WEIGHTS = b"weights" * 1000


def _programs() -> Path:
    found = importlib.util.find_spec("pgserver")
    if found is None or found.origin is None:
        pytest.skip("pgserver is not installed: it has no wheel for this Python")
    return Path(found.origin).parent / "pginstall" / "bin"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    """Runs commands with PostgreSQL's programs in reach; ``--database-url`` says where."""
    monkeypatch.setenv("FRONTIER_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("FRONTIER_DATABASE_URL", raising=False)
    monkeypatch.setenv("FRONTIER_PG_BIN", str(_programs()))
    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def world(database: Database, store: ArtifactStore) -> World:
    """A search whose trials ended in several ways, waits for others, and an artifact."""
    world = World(database).found()
    search = world.search().id
    world.ask(search, world.genes(12))
    leases = world.lease(6)
    world.complete(leases[:3])
    world.fail(leases[3], State.INFEASIBLE, failure="infeasible")
    keep(world, store, WEIGHTS)
    return world


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the same kind as `database`."""
    yield from _empty(request, database.dialect, tmp_path)


@pytest.fixture
def foreign(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the other kind."""
    yield from _empty(request, {"sqlite": "postgresql", "postgresql": "sqlite"}[database.dialect], tmp_path)


def _empty(request: pytest.FixtureRequest, dialect: str, folder: Path) -> Iterator[str]:
    if dialect == "sqlite":
        yield f"sqlite:///{folder / 'elsewhere' / 'frontier.db'}"
        return
    server: Callable[[str], str] = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield server(name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def keep(world: World, store: ArtifactStore, content: bytes) -> str:
    digest, size = store.put([content])
    with world.database.write() as s:
        artifacts.register(s, digest, size)
    return digest


def checked(run: Run, database: Database | str, *options: str) -> tuple[Ran, dict[str, list[str]]]:
    """The run of `frontier db check`, and the problems by check."""
    url = database if isinstance(database, str) else database.url
    ran = run("db", "check", "--database-url", url, "--json", *options)
    assert ran.json["ok"] is (ran.code == 0), ran.err
    return ran, {each["name"]: each["problems"] for each in ran.json["checks"] if not each["ok"]}


def execute(database: Database, *statements: str) -> None:
    """Breaks promises: keys are not enforced."""
    lax, strict = {
        "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
        "postgresql": ("SET session_replication_role = replica", "SET session_replication_role = origin"),
    }[database.dialect]
    engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (lax, *statements, strict):
            connection.exec_driver_sql(statement)
    engine.dispose()


# ---------------------------------------------------------------------- check


def test_a_healthy_database_is_found_healthy(run: Run, world: World) -> None:
    assert checked(run, world.database, "--deep")[1] == {}
    shown = run("db", "check", "--database-url", world.database.url)
    assert shown.code == 0
    assert len(shown.out.splitlines()) == 10
    assert all(line.endswith(" ok") for line in shown.out.splitlines())


def test_a_trial_that_was_tried_again_is_healthy(run: Run, world: World) -> None:
    (lease,) = world.lease(1)
    world.fail(lease, State.FAILED, failure="infeasible")
    with world.database.write() as s:
        assert retries.retry(s, JobsIn(ids=[lease.job])).retried == [lease.job]
    assert checked(run, world.database)[1] == {}
    world.complete(world.lease())
    assert checked(run, world.database)[1] == {}


@pytest.mark.parametrize(
    ("statement", "check", "said"),
    [
        ("DELETE FROM events WHERE number IN (3, 4)", "events", "there is no event between 2 and 5"),
        ("UPDATE counters SET value = value + 7 WHERE name = 'events'", "events", "but the counter stands at"),
        ("DELETE FROM counters WHERE name = 'events'", "events", "the counter of the events is missing"),
        (
            "UPDATE jobs SET state = 'QUEUED' WHERE trial_id = 1",
            "ended trials",
            "trial 1 of search 1 is SUCCEEDED, but its job 1 is QUEUED",
        ),
        (
            "UPDATE jobs SET state = 'CANCELLED' WHERE trial_id = 12",
            "open trials",
            "trial 12 of search 1 is QUEUED, but no job waits or works for it",
        ),
        (
            "UPDATE jobs SET leased_until = NULL WHERE trial_id = 5",
            "leases",
            "job 5 (evaluate) is LEASED by w, without an end",
        ),
        (
            "UPDATE trials SET completion = 9 WHERE completion = 2",
            "completions",
            "search 1: no trial has the completions 2",
        ),
        (
            "UPDATE trials SET completion = 1 WHERE completion = 2",
            "completions",
            "search 1: several trials have the completions 1",
        ),
        (
            "UPDATE trials SET completion = NULL WHERE completion = 4",
            "completions",
            "search 1: no trial has the completions 4",
        ),
        ("DELETE FROM contexts", "integrity", "contexts"),
    ],
)
def test_what_does_not_hold_is_found_and_located(run: Run, world: World, statement: str, check: str, said: str) -> None:
    execute(world.database, statement)
    ran, found = checked(run, world.database)
    assert ran.code == 1
    assert found.keys() == {check}
    assert any(said in problem for problem in found[check]), found
    assert said in ran.err or found[check][0] in ran.err


def test_measurements_of_one_attempt_are_found(run: Run, world: World) -> None:
    if world.database.dialect == "postgresql":
        (unique,) = inspect(world.database.engine).get_unique_constraints("measurements")
        loosen = [f'ALTER TABLE measurements DROP CONSTRAINT "{unique["name"]}"']
    else:
        loosen = [
            "CREATE TABLE loose AS SELECT * FROM measurements",
            "DROP TABLE measurements",
            "ALTER TABLE loose RENAME TO measurements",
        ]
    columns = ", ".join(name for name in read(world.database.engine)["measurements"][0] if name != "id")
    again = f"INSERT INTO measurements (id, {columns}) SELECT 100000 + id, {columns} FROM measurements WHERE id = 1"
    execute(world.database, *loosen, again)
    (problem,) = checked(run, world.database)[1]["attempts"]
    assert "measurements 1 and 100001 are the same attempt" in problem


def test_many_problems_are_counted(run: Run, world: World) -> None:
    execute(world.database, "DELETE FROM events WHERE number = 2 * (number / 2)")
    with world.database.read() as s:
        number = s.scalars(select(func.count()).select_from(text("events"))).one() - 1
    (found,) = [each for each in checked(run, world.database)[0].json["checks"] if each["name"] == "events"]
    # The newest event may be among those that are gone, which is one problem more.
    assert len(found["problems"]) + found["more"] in (number, number + 1)


def test_a_damaged_file_is_found(run: Run, world: World) -> None:
    if world.database.dialect != "sqlite":
        pytest.skip("the server looks after its own files")
    world.database.dispose()
    path = Path(world.database.url.removeprefix("sqlite:///"))
    with path.open("r+b") as file:
        file.seek(9 * 4096)
        file.write(b"\xff" * 4096)
    ran, found = checked(run, world.database)
    assert ran.code == 1
    assert "integrity" in found


def test_artifacts_are_looked_at(run: Run, world: World, store: ArtifactStore) -> None:
    digest, other = keep(world, store, b"other"), keep(world, store, b"one more")
    store.path(digest).write_bytes(b"Other")
    assert checked(run, world.database)[1] == {}
    assert "is damaged" in checked(run, world.database, "--deep")[1]["artifacts"][0]
    store.path(digest).write_bytes(b"ot")
    store.path(other).unlink()
    problems = checked(run, world.database)[1]["artifacts"]
    assert [digest in each or other in each for each in problems] == [True, True]
    assert any("has 2 bytes, it had 5" in each for each in problems)
    assert any("is not in the artifact folder" in each for each in problems)


def test_a_database_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    for arguments in (("check",), ("backup", str(tmp_path / "b.zip"))):
        ran = run("db", *arguments, "--database-url", f"sqlite:///{missing}")
        assert (ran.code, "there is no file" in ran.err) == (1, True)
    assert not missing.exists()
    assert not (tmp_path / "b.zip").exists()
    away = run("db", "check", "--database-url", "postgresql+psycopg://nobody@127.0.0.1:9/x", "--json")
    assert (away.code, [each["name"] for each in away.json["checks"]]) == (1, ["connection"])


def test_a_newer_schema_is_refused_by_everybody(run: Run, database: Database, tmp_path: Path) -> None:
    execute(database, "UPDATE alembic_version SET version_num = '9999'")
    words = f"has schema 9999, which this release does not know (its newest is {newest_revision()})"
    file = tmp_path / "b.zip"
    for arguments in (
        ("api", "--port", "0"),
        ("controller",),
        ("db", "check"),
        ("db", "upgrade"),
        ("db", "backup", str(file)),
    ):
        ran = run(*arguments, "--database-url", database.url)
        assert (ran.code, words in ran.err, "Traceback" in ran.err) == (1, True, False), (arguments, ran.err)
    assert not file.exists()


def test_an_older_schema_is_refused_with_the_remedy(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copy(FILES[0], tmp_path / 'old.db')}"
    for arguments in (("api", "--port", "0"), ("controller",), ("db", "check")):
        ran = run(*arguments, "--database-url", url)
        assert (ran.code, "`frontier db upgrade`" in ran.err) == (1, True), ran.err


# ---------------------------------------------------------------------- backup and restore


def back_up(run: Run, database: Database, file: Path, *options: str) -> Ran:
    return run("db", "backup", str(file), "--database-url", database.url, *options)


def put_back(run: Run, file: Path, url: str, *options: str) -> Ran:
    return run("db", "restore", str(file), "--database-url", url, *options)


def test_a_backup_while_trials_end_is_one_moment(
    run: Run, world: World, store: ArtifactStore, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_PAGES", 5)
    search = world.search(name="busy").id
    world.ask(search, world.genes(200, seed=1))
    stop, ended = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        while not stop.is_set() and (leases := world.lease(1)):
            world.complete(leases)
            ended.release()

    def ended_trials(database: Database) -> int:
        with database.read() as s:
            return s.scalars(select(func.count()).where(Trial.state.not_in(OPEN))).one()

    waited = 0

    def report(_what: str, _done: int, _total: int | None) -> None:
        """Holds the backup up until another trial has ended meanwhile."""
        nonlocal waited
        if waited < 10:
            waited += 1
            while ended.acquire(blocking=False):
                pass
            assert ended.acquire(timeout=PATIENCE_S)

    file = tmp_path / "b.zip"
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        assert ended.acquire(timeout=PATIENCE_S)
        before = ended_trials(world.database)
        made = make(world.database, store, file, release="1", programs=_programs(), report=report)
        after = ended_trials(world.database)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert waited > 0
    shutil.rmtree(tmp_path / "artifacts")
    ran = put_back(run, file, elsewhere)
    assert ran.code == 0, ran.err
    assert checked(run, elsewhere, "--deep")[1] == {}
    restored = Database(elsewhere)
    assert before <= ended_trials(restored) < after
    rows = read(restored.engine)
    assert len(rows["events"]) == made.manifest.events
    kinds = [row["kind"] for row in rows["events"]]
    assert kinds.count("trial.ended") == ended_trials(restored)
    assert store.read(hashlib.sha256(WEIGHTS).hexdigest()) == WEIGHTS
    assert not list(tmp_path.glob(".backup-*"))
    restored.dispose()


def test_a_restored_search_goes_on_to_its_budget(
    run: Run,
    world: World,
    store: ArtifactStore,
    elsewhere: str,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    search = world.search(name="asked", designer="evolution", budget=12, batch=4).id
    advance(world.database, Stepper(world.database, store))
    world.complete(world.lease(2))
    world.lease(2, lease_s=3600)
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    with world.database.read() as s:
        seen = events.last(s)
    # What happens behind the backup is lost with the database, though its readers know the numbers.
    world.complete(world.lease())
    with world.database.read() as s:
        lost = events.last(s)
    assert lost > seen

    ran = put_back(run, tmp_path / "b.zip", elsewhere)
    assert ran.code == 0, ran.err
    again = World(Database(elsewhere))
    with again.database.read() as s:
        for number in (1, seen, lost):
            found, _ = events.follow(s, number)
            assert found[0].kind == RESET
        newest = events.last(s)
        assert newest > lost
        assert [event.kind for event in events.follow(s, newest)[0]] == []
    with again.database.write() as s:
        assert queue.expire(s, now() + timedelta(days=1)) == 4
        s.execute(text("UPDATE jobs SET not_before = NULL"))
    stepper = Stepper(again.database, store)
    for _ in range(20):
        with again.database.read() as s:
            if searches.get(s, search).state == SearchState.DONE:
                break
        again.complete(again.lease())
        advance(again.database, stepper)
    with again.database.read() as s:
        ended = searches.get(s, search)
    assert (ended.state, ended.counts.succeeded) == (SearchState.DONE, 12)
    capsysbinary.readouterr()  # the steps' log
    assert checked(run, elsewhere, "--deep")[1] == {}
    again.database.dispose()


@pytest.mark.parametrize("released", FILES, ids=lambda path: path.stem)
def test_a_backup_of_every_released_schema_is_restored_and_upgraded(
    run: Run, released: Path, empty_url: str, store: ArtifactStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copy = Path(shutil.copy(released, tmp_path / "released.db"))
    engine = create_engine(f"sqlite:///{copy}")
    rows = read(engine)
    engine.dispose()
    if empty_url.startswith("sqlite"):
        old = Database(f"sqlite:///{copy}")
    else:
        load(empty_url, rows)
        old = Database(empty_url)
    for content in (b"weights of net", b"a predictor"):
        store.put([content])
    backup = back_up(run, old, tmp_path / "b.zip")
    held = {row["digest"] for row in rows["artifacts"] if store.has(row["digest"])}
    assert backup.code == (0 if len(held) == len(rows["artifacts"]) else 1), backup.err
    old.dispose()

    urls = _empty(request, old.dialect, tmp_path)
    url = next(urls)
    ran = put_back(run, tmp_path / "b.zip", url)
    assert ran.code == 0, ran.err
    assert f"was upgraded to {newest_revision()}" in ran.out
    _, problems = checked(run, url, "--deep")
    assert problems.keys() <= {"artifacts"}
    assert len(problems.get("artifacts", [])) == len(rows["artifacts"]) - len(held)
    restored = Database(url)
    after = read(restored.engine)
    for table, before in rows.items():
        if table not in ("alembic_version", "counters", "events"):
            assert [{name: row[name] for name in before[0]} for row in after[table]] == before, table
    restored.dispose()
    next(urls, None)


def test_a_file_that_exists_is_kept_unless_forced(run: Run, world: World, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    file.write_bytes(b"precious")
    ran = back_up(run, world.database, file)
    assert (ran.code, "--force" in ran.err) == (1, True)
    assert file.read_bytes() == b"precious"
    # What a backup that was killed left behind is no obstacle.
    (tmp_path / "b.zip.part").write_bytes(b"x" * 10_000_000)
    assert back_up(run, world.database, file, "--force").code == 0
    assert zipfile.is_zipfile(file)
    assert file.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "b.zip.part").exists()


def test_two_backups_do_not_write_one_file(run: Run, world: World, store: ArtifactStore, tmp_path: Path) -> None:
    said = []

    def report(_what: str, _done: int, _total: int | None) -> None:
        if not said:
            said.append(back_up(run, world.database, tmp_path / "b.zip"))

    make(world.database, store, tmp_path / "b.zip", release="1", programs=_programs(), report=report)
    assert (said[0].code, "another backup is being written" in said[0].err) == (1, True)
    assert zipfile.is_zipfile(tmp_path / "b.zip")


def test_a_database_without_a_schema_has_nothing_to_back_up(run: Run, empty_url: str, tmp_path: Path) -> None:
    Database(empty_url).revision()
    ran = run("db", "backup", str(tmp_path / "b.zip"), "--database-url", empty_url)
    assert (ran.code, "there is nothing to back up" in ran.err) == (1, True)
    assert not list(tmp_path.glob("b.zip*"))


def test_a_backup_that_fails_leaves_nothing(world: World, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"precious")

    def fail(what: str, _done: int, _total: int | None) -> None:
        if what == "writing artifacts":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make(world.database, store, tmp_path / "b.zip", release="1", force=True, programs=_programs(), report=fail)
    assert (tmp_path / "b.zip").read_bytes() == b"precious"
    assert not (tmp_path / "b.zip.part").exists()


def test_artifacts_that_are_lost_are_said_and_the_rest_is_kept(
    run: Run, world: World, store: ArtifactStore, elsewhere: str, tmp_path: Path
) -> None:
    digest, other = keep(world, store, b"other"), keep(world, store, b"one more")
    store.path(digest).write_bytes(b"Other")
    store.path(other).unlink()
    ran = back_up(run, world.database, tmp_path / "b.zip")
    assert (ran.code, "without 2 artifacts" in ran.err) == (1, True)
    shutil.rmtree(tmp_path / "artifacts")
    ran = put_back(run, tmp_path / "b.zip", elsewhere)
    assert (ran.code, "without 2 artifacts" in ran.err) == (0, True)
    problems = checked(run, elsewhere)[1]["artifacts"]
    assert sorted(each.split()[1] for each in problems) == sorted([digest, other])


def test_a_database_that_is_not_empty_stays_as_it_is(run: Run, world: World, tmp_path: Path) -> None:
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    before = read(world.database.engine)
    ran = put_back(run, tmp_path / "b.zip", world.database.url)
    assert (ran.code, "the database is not empty" in ran.err) == (1, True)
    assert read(world.database.engine) == before


def test_another_kind_of_database_is_refused_with_the_way_that_there_is(
    run: Run, world: World, foreign: str, tmp_path: Path
) -> None:
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    ran = put_back(run, tmp_path / "b.zip", foreign)
    assert (ran.code, f"is of a database on {world.database.dialect}" in ran.err) == (1, True)
    assert "`frontier export`" in ran.err


def test_what_lies_beside_a_sqlite_file_is_not_mixed_with_a_restored_one(
    run: Run, world: World, elsewhere: str, tmp_path: Path
) -> None:
    if world.database.dialect != "sqlite":
        pytest.skip("files of SQLite")
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    log = tmp_path / "elsewhere" / "frontier.db-wal"
    log.parent.mkdir()
    log.write_bytes(b"of another database")
    ran = put_back(run, tmp_path / "b.zip", elsewhere)
    assert (ran.code, "frontier.db-wal lies there" in ran.err) == (1, True)
    log.unlink()
    assert put_back(run, tmp_path / "b.zip", elsewhere).code == 0


# ---------------------------------------------------------------------- files that are refused

Members = dict[str, bytes]


def _manifest(members: Members, **changes: Any) -> None:
    found = json.loads(members["manifest.json"])
    members["manifest.json"] = json.dumps({**found, **changes}).encode()


def _add(name: str) -> Callable[[Members], None]:
    return lambda members: members.update({name: b"#!/bin/sh"})


def _database(members: Members, content: bytes) -> None:
    (name,) = (name for name in members if name.startswith("database."))
    members[name] = content


def _artifact(members: Members, content: bytes | None) -> None:
    name = next(name for name in members if name.startswith("artifacts/"))
    if content is None:
        del members[name]
    else:
        members[name] = content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: _manifest(m, revision="9999"), "has schema 9999, which this release does not know"),
        (lambda m: _manifest(m, version=2), "has version 2 of the format"),
        (lambda m: _manifest(m, format="other"), "does not say format"),
        (lambda m: _manifest(m, events=-1), "manifest.json, events"),
        (lambda m: _manifest(m, artifacts={"../../evil": 3}), "manifest.json, artifacts"),
        (lambda m: m.pop("manifest.json"), "has no manifest.json"),
        (lambda m: m.update({"manifest.json": b"{"}), "is not JSON"),
        (_add("../../evil"), "holds '../../evil', which its manifest does not name"),
        (_add("/tmp/evil"), "holds '/tmp/evil', which its manifest does not name"),
        (_add("artifacts/../../evil"), "holds 'artifacts/../../evil', which its manifest does not name"),
        (lambda m: _database(m, b"other"), "does not have the digest that the manifest gives"),
        (lambda m: _database(m, b"x" * 10_000_000), "does not have the digest that the manifest gives"),
        (lambda m: _artifact(m, b"Weights" * 1000), "does not have the digest that the manifest gives"),
        (lambda m: _artifact(m, None), "is missing"),
    ],
)
def test_a_file_that_is_not_what_its_manifest_says_changes_nothing(
    run: Run, world: World, elsewhere: str, tmp_path: Path, change: Callable[[Members], None], said: str
) -> None:
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    with zipfile.ZipFile(tmp_path / "b.zip") as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    refused(run, tmp_path, elsewhere, said)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_changes_nothing(run: Run, world: World, elsewhere: str, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "b.zip"
    assert back_up(run, world.database, file).code == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[: len(content) - 100], "flipped": content, "empty": b""}[damage])
    refused(run, tmp_path, elsewhere, "damaged" if damage == "flipped" else "is no backup, or was cut")


def refused(run: Run, folder: Path, url: str, said: str) -> None:
    """A restore is refused in these words, and leaves neither tables nor artifacts nor anything else."""
    shutil.rmtree(folder / "artifacts")
    before = set(folder.rglob("*"))
    ran = put_back(run, folder / "b.zip", url)
    assert ran.code == 1
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert {path for path in set(folder.rglob("*")) - before if path.is_file()} == set()
    if not url.startswith("sqlite"):
        database = Database(url)
        assert snapshots.tables(database) == []
        database.dispose()


def test_a_restore_that_was_interrupted_can_be_repeated(run: Run, world: World, elsewhere: str, tmp_path: Path) -> None:
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    store = ArtifactStore(tmp_path / "other-artifacts")

    def fail(what: str, _done: int, _total: int | None) -> None:
        if what == "writing the database":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "b.zip", elsewhere, store, programs=_programs(), report=fail)
    assert store.has(hashlib.sha256(WEIGHTS).hexdigest())
    assert put_back(run, tmp_path / "b.zip", elsewhere).code == 0
    assert checked(run, elsewhere, "--deep")[1] == {}


# ---------------------------------------------------------------------- PostgreSQL's programs


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_programs_that_are_missing_or_too_old_are_said(run: Run, world: World, elsewhere: str, tmp_path: Path) -> None:
    if world.database.dialect != "postgresql":
        pytest.skip("programs of PostgreSQL")
    own = tmp_path / "bin"
    ran = back_up(run, world.database, tmp_path / "b.zip", "--pg-bin", str(own))
    assert (ran.code, f"pg_dump is not in {own}" in ran.err, "--pg-bin or FRONTIER_PG_BIN" in ran.err) == (
        1,
        True,
        True,
    )
    program(own, "pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.2'")
    ran = back_up(run, world.database, tmp_path / "b.zip", "--pg-bin", str(own))
    assert (ran.code, "is of PostgreSQL 9, the server of" in ran.err) == (1, True)
    program(own, "pg_dump", "echo 'pg_dump (PostgreSQL) 99.1'; [ $# = 1 ] || { echo 'no such thing' >&2; exit 3; }")
    ran = back_up(run, world.database, tmp_path / "b.zip", "--pg-bin", str(own))
    assert (ran.code, "ended with 3: no such thing" in ran.err) == (1, True)
    assert not list(tmp_path.glob("b.zip*"))
    assert back_up(run, world.database, tmp_path / "b.zip").code == 0
    program(own, "pg_restore", "echo 'pg_restore (PostgreSQL) 9.6.2'")
    ran = put_back(run, tmp_path / "b.zip", elsewhere, "--pg-bin", str(own))
    assert (ran.code, "the backup was made by one of" in ran.err) == (1, True)


def test_the_password_is_not_among_the_arguments(run: Run, world: World, tmp_path: Path) -> None:
    if world.database.dialect != "postgresql":
        pytest.skip("programs of PostgreSQL")
    own = tmp_path / "bin"
    program(own, "pg_dump", f'echo "$@ / $PGPASSWORD" >> {tmp_path}/said; exec {_programs()}/pg_dump "$@"')
    url = world.database.url.replace("postgres@", "postgres:s%40cret@")
    assert run("db", "backup", str(tmp_path / "b.zip"), "--database-url", url, "--pg-bin", str(own)).code == 0
    dumped = (tmp_path / "said").read_text().splitlines()[-1]
    arguments, _, password = dumped.rpartition(" / ")
    assert "cret" not in arguments
    assert password == "s@cret"


def test_a_backup_names_what_it_holds(world: World, store: ArtifactStore, tmp_path: Path) -> None:
    made = make(world.database, store, tmp_path / "b.zip", release="1.2", programs=_programs()).manifest
    with world.database.read() as s:
        stored = dict(s.execute(select(Artifact.digest, Artifact.size)).all())
        newest = events.last(s)
    assert (made.artifacts, made.absent, made.events) == (stored, [], newest)
    assert (made.release, made.revision, made.dialect) == ("1.2", newest_revision(), world.database.dialect)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert json.loads(archive.read("manifest.json")) == made.model_dump(mode="json")
        for name, member in made.members.items():
            content = archive.read(name)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (member.size, member.sha256)
