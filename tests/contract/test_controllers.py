"""Controllers on both databases: they share searches by fenced leases, and no designer holds up another search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from search_spaces import plugins
from service.controller import Controller, Stepper
from service.core.errors import Stale
from service.core.states import SearchState
from service.db import searches
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.wire.searches import SearchOut
from tests import odd_designers
from tests.acceptance.processes import until
from tests.world import World, advance

KINDS = ("raises", "leaves", "exits", "crashes")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The designer `odd` is installed; it notes its asks here."""
    yield odd_designers.install(tmp_path / "plugin", monkeypatch)
    sys.modules.pop("odd_designers_plugin", None)
    plugins._table.cache_clear()


@pytest.fixture
def world(database: Database) -> World:
    return World(database).found()


def odd(world: World, notes: Path, does: str, **given: Any) -> int:
    options = {"does": does, "notes": str(notes)}
    return world.search(designer="odd", options=options, **{"budget": 6, "batch": 2, **given}).id


def shown(world: World, search: int) -> SearchOut:
    with world.database.read() as s:
        return searches.get(s, search)


def asked(notes: Path, does: str) -> list[list[int]]:
    """Per ask: trials before it, the controller's process, the process that computed."""
    file = notes / does
    return [list(map(int, line.split())) for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def controlling(world: World, folder: Path, name: str = "c", **given: Any) -> Iterator[threading.Event]:
    """A controller in a thread, with its steps in processes."""
    known = {"lease_s": 2.0, "poll_s": 0.02, **given}
    stop = threading.Event()
    controller = Controller(world.database, ArtifactStore(folder), name, **known)
    thread = threading.Thread(target=controller.run, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def work_until(world: World, what: str, seen: Callable[[], object]) -> None:
    """Does jobs until something is seen."""

    def look() -> object:
        leases = world.lease()
        if leases:
            world.complete(leases)
        return seen()

    until(what, look)


def finish_here(world: World, stepper: Stepper, search: int) -> None:
    """Steps in this thread until the search ends."""
    while shown(world, search).state == SearchState.RUNNING:
        advance(world.database, stepper)
        leases = world.lease()
        if leases:
            world.complete(leases)


# ---------------------------------------------------------------------- slow and broken designers


def test_a_broken_designer_fails_its_own_search_alone_and_says_why(world: World, notes: Path, tmp_path: Path) -> None:
    broken = {does: odd(world, notes, does) for does in KINDS}
    fine = odd(world, notes, "fine", budget=10)
    with controlling(world, tmp_path):
        everything = [*broken.values(), fine]
        work_until(world, "ends", lambda: all(shown(world, each).state != SearchState.RUNNING for each in everything))
    assert shown(world, fine).state == SearchState.DONE
    reasons = {does: shown(world, each).reason for does, each in broken.items()}
    assert {shown(world, each).state for each in broken.values()} == {SearchState.FAILED}
    assert reasons["raises"] == "the designer failed: ValueError: an odd mistake"
    assert reasons["leaves"] == "the designer failed: SystemExit: 3"
    assert "ended with code 7" in reasons["exits"]
    assert "killed by signal 11" in reasons["crashes"]
    assert len(asked(notes, "raises")) == 1
    assert len(asked(notes, "exits")) == len(asked(notes, "crashes")) == 3, "what may pass is tried again, for a while"


@pytest.mark.parametrize("does", ["computes", "sleeps"])
def test_hanging_designers_hold_up_nobody_and_are_stopped(world: World, notes: Path, tmp_path: Path, does: str) -> None:
    hanging = [odd(world, notes, does) for _ in range(3)]
    fine = [odd(world, notes, "fine") for _ in range(2)]
    with controlling(world, tmp_path, step_s=600, lease_s=0.6):
        until("all of them hang", lambda: len(asked(notes, does)) == 3)
        work_until(world, "the others end", lambda: all(shown(world, x).state == SearchState.DONE for x in fine))
        assert {shown(world, each).state for each in hanging} == {SearchState.RUNNING}
        # The lease is renewed: another controller gets nothing for longer than a lease lasts.
        for _ in range(10):
            with world.database.read() as s:
                assert not set(searches.running(s, "other")) & set(hanging)
            time.sleep(0.1)
        assert len(asked(notes, does)) == 3, "none was begun twice"
        # Cancelling stops what computes.
        with world.database.write() as s:
            searches.set_state(s, hanging[0], "cancel")
        pids = [pid for _, _, pid in asked(notes, does)]
        until("the cancelled one's process ends", lambda: sum(map(lives, pids)) == 2)
    assert not any(map(lives, pids)), "the controller leaves no process behind"
    with world.database.read() as s:
        assert searches.running(s, "other") == hanging[1:], "given back at the end"


def test_a_designer_beyond_its_limit_fails_its_search(world: World, notes: Path, tmp_path: Path) -> None:
    search = odd(world, notes, "computes")
    with controlling(world, tmp_path, step_s=0.3):
        until("the end", lambda: shown(world, search).state == SearchState.FAILED)
    assert shown(world, search).reason == "the designer failed: took longer than 0.3 s for one ask"


def test_many_slow_searches_leave_a_place_for_the_others(world: World, notes: Path, tmp_path: Path) -> None:
    slow = [odd(world, notes, "waits", slack=0, budget=2) for _ in range(2)]
    with controlling(world, tmp_path, steps=3):
        until("both compute", lambda: len(asked(notes, "waits")) == 2)
        late = odd(world, notes, "fine")
        work_until(world, "the late one ends", lambda: shown(world, late).state == SearchState.DONE)
        (notes / "go").touch()
        work_until(world, "all end", lambda: all(shown(world, each).state == SearchState.DONE for each in slow))


def test_nothing_is_computed_in_a_transaction(world: World, notes: Path, tmp_path: Path) -> None:
    search = odd(world, notes, "fine")
    stepper = Stepper(world.database, ArtifactStore(tmp_path))
    advance(world.database, stepper)  # imports the designer
    open_ones: list[int] = []
    pool: Any = world.database.engine.pool
    sys.modules["odd_designers_plugin"].WATCHING.append(lambda: open_ones.append(pool.checkedout()))
    finish_here(world, stepper, search)
    assert len(open_ones) >= 4
    assert set(open_ones) == {0}, "no connection is in use while a designer computes"


def test_the_database_is_free_while_a_designer_computes(world: World, notes: Path, tmp_path: Path) -> None:
    odd(world, notes, "sleeps")
    with controlling(world, tmp_path):
        until("it computes", lambda: bool(asked(notes, "sleeps")))
        world.search(name="another")  # SQLite has one writer: it is not the controller
        if world.database.dialect == "postgresql":
            # Looks of the controller come and go; a transaction of the hand would stay for as long as it sleeps.
            until("no transaction is open", lambda: idle_transactions(world.database) == 0, 30)


# ---------------------------------------------------------------------- several controllers


def test_steps_in_processes_suggest_what_steps_here_suggest(world: World, notes: Path, tmp_path: Path) -> None:
    here = odd(world, notes, "fine", budget=8, name="here")
    stepper = Stepper(world.database, ArtifactStore(tmp_path))
    finish_here(world, stepper, here)
    asks, wrong = stepper.verify(here)
    assert (asks, wrong) == (4, [])
    there = odd(world, notes, "fine", budget=8, name="there")
    with controlling(world, tmp_path, "one"), controlling(world, tmp_path, "two"):
        work_until(world, "the end", lambda: shown(world, there).state == SearchState.DONE)
    assert stepper.verify(there) == (4, [])


def test_two_controllers_share_many_searches(world: World, database_url: str, notes: Path, tmp_path: Path) -> None:
    found = [odd(world, notes, "slow", budget=4) for _ in range(8)]
    with processes(database_url, tmp_path, 2, lease_s=30) as controllers:
        work_until(world, "all end", lambda: all(shown(world, each).state == SearchState.DONE for each in found))
        did = [pid for _, pid, _ in asked(notes, "slow")]
        assert len(did) == 16, "each ask was computed once"
        assert set(did) == {each.pid for each in controllers}
        assert min(did.count(each.pid) for each in controllers) >= 2


def test_a_killed_controllers_searches_are_taken_over(
    world: World, database_url: str, notes: Path, tmp_path: Path
) -> None:
    search = odd(world, notes, "waits", budget=4)
    others = [odd(world, notes, "fine", budget=4) for _ in range(3)]
    with processes(database_url, tmp_path, 1) as (first,):
        until("it computes", lambda: bool(asked(notes, "waits")))
        (_, owner, computing) = asked(notes, "waits")[0]
        assert owner == first.pid
        token = held_by(world, search)
        first.kill()
        first.wait()
        until("what it had computing ends with it", lambda: not lives(computing))
        with processes(database_url, tmp_path, 1) as (second,):
            until("the other one has it", lambda: len(asked(notes, "waits")) == 2)
            assert asked(notes, "waits")[1][:2] == [0, second.pid]
            with pytest.raises(Stale), world.database.write() as s:
                searches.finish(s, token, SearchState.FAILED, "said by one that was killed")
            (notes / "go").touch()
            everything = [search, *others]
            work_until(world, "all end", lambda: all(shown(world, x).state == SearchState.DONE for x in everything))
    assert len(world.trials(search)) == 4


def test_sigterm_ends_a_controller_while_a_designer_computes(
    world: World, database_url: str, notes: Path, tmp_path: Path
) -> None:
    search = odd(world, notes, "computes")
    with processes(database_url, tmp_path, 1, lease_s=600) as (controller,):
        until("it computes", lambda: bool(asked(notes, "computes")))
        controller.send_signal(signal.SIGTERM)
        assert controller.wait(timeout=30) == 0
        assert not lives(asked(notes, "computes")[0][2])
    with world.database.read() as s:
        assert searches.running(s, "another") == [search], "its lease does not have to run out"


def test_a_lease_is_lost_with_its_token_and_renewed_by_it_alone(world: World) -> None:
    search = world.search().id
    first = world.claim(search, "a", lease_s=60)
    with world.database.write() as s:
        assert searches.renew(s, first, 60)
        searches.release(s, first)
    with world.database.write() as s:
        assert not searches.renew(s, first, 60), "what was given back is not taken again"
    second = world.claim(search, "b", lease_s=-1)
    third = world.claim(search, "c")
    assert first.token < second.token < third.token
    with world.database.write() as s:
        assert not searches.renew(s, second, 60)
        searches.release(s, second)
        assert searches.running(s, "d") == []
        searches.release_all(s, "c")
        assert searches.running(s, "d") == [search]


# ---------------------------------------------------------------------- helpers


@contextmanager
def processes(url: str, folder: Path, count: int, lease_s: float = 1.0) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Controllers as processes of their own."""
    environment = {**os.environ, "FRONTIER_DATABASE_URL": url, "FRONTIER_LEASE_S": str(lease_s)}
    command = [sys.executable, "-m", "service.cli", "controller", "--home", str(folder)]
    with (folder / "controllers.log").open("ab") as log:
        started = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for _ in range(count)]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()


def idle_transactions(database: Database) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
    with database.engine.connect() as connection:
        found: int = connection.execute(text(query)).scalar_one()
    return found


def held_by(world: World, search: int) -> searches.Claim:
    with world.database.read() as s:
        return searches.Claim(search, searches.row(s, search).token)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
