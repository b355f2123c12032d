"""Many rows in one statement, on both databases, and what a batch of reports may hold."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DataError

from service.core.metrics import Circumstances
from service.db import architectures, ledger, tables
from service.db.ledger import Entry
from service.db.rows import among, insert_all, insert_new, update_all
from service.db.session import Database
from service.listening import bind
from service.settings import Settings
from tests.world import World

AT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
ODD = {'é, "x"': [1]}
HERE = Circumstances(dataset="d" * 64, split="validation", evaluator="training", options={}, weights=None, seed=0)


def _datasets(*names: str) -> list[dict[str, object]]:
    # Lists and objects as values, a list first of all: no array of a column may take them for its own dimensions.
    return [
        {
            "name": name,
            "digest": "d" * 64,
            "shape": [3, 8, 8],
            "classes": 10,
            "counts": ODD,
            "created_at": AT,
        }
        for name in names
    ]


def _names(database: Database) -> list[str]:
    with database.read() as s:
        return list(s.scalars(select(tables.Dataset.name).order_by(tables.Dataset.name)))


def test_rows_come_back_as_they_were_given(database: Database) -> None:
    with database.write() as s:
        insert_all(s, tables.Dataset, _datasets("a", "b"))
    with database.read() as s:
        found = s.scalars(select(tables.Dataset).order_by(tables.Dataset.name)).all()
    assert [(each.name, each.shape, each.counts, each.created_at) for each in found] == [
        (name, [3, 8, 8], ODD, AT) for name in ("a", "b")
    ]


def test_only_new_rows_are_inserted_and_returned(database: Database) -> None:
    with database.write() as s:
        insert_all(s, tables.Dataset, _datasets("b"))
        made = insert_new(s, tables.Dataset, _datasets("a", "b", "c"), tables.Dataset.name)
        assert sorted(row.name for row in made) == ["a", "c"]
    assert _names(database) == ["a", "b", "c"]


def test_each_row_gets_its_own_values(database: Database) -> None:
    with database.write() as s:
        # Defaults of columns that no row names hold.
        insert_all(s, tables.Job, [{"kind": "fit", "payload": {"n": n}} for n in range(3)])
        update_all(
            s,
            tables.Job,
            [
                {"id": 1, "result": None, "reason": "one", "ended_at": AT},
                {"id": 3, "result": {"x": [None, 2.5]}, "reason": "three", "ended_at": None},
            ],
        )
    with database.read() as s:
        jobs = s.scalars(select(tables.Job).order_by(tables.Job.id)).all()
    assert [(job.state, job.result, job.reason, job.ended_at) for job in jobs] == [
        ("QUEUED", None, "one", AT),
        ("QUEUED", None, "", None),
        ("QUEUED", {"x": [None, 2.5]}, "three", None),
    ]


def test_values_that_all_rows_share_and_values_that_are_added(database: Database) -> None:
    with database.write() as s:
        insert_all(
            s, tables.Job, [{"kind": "fit", "attempts": n} for n in range(3)], {"payload": ODD, "created_at": AT}
        )
        changes = [{"id": 1, "reason": "one", "attempts": 5}, {"id": 3, "reason": "three", "attempts": 7}]
        shared = {"ended_at": AT, "result": ODD, "token": 1}
        update_all(s, tables.Job, changes, shared, added=("attempts", "token"))
        # And without values of their own.
        update_all(s, tables.Job, [{"id": 3}], {"worker": "w", "ended_at": None})
    with database.read() as s:
        jobs = s.scalars(select(tables.Job).order_by(tables.Job.id)).all()
    assert [(job.payload, job.created_at) for job in jobs] == [(ODD, AT)] * 3
    assert [(job.attempts, job.token, job.reason, job.result, job.ended_at, job.worker) for job in jobs] == [
        (5, 1, "one", ODD, AT, None),
        (1, 0, "", None, None, None),
        (9, 1, "three", ODD, None, "w"),
    ]


def test_shared_values_of_rows_that_are_there_already(database: Database) -> None:
    given: list[dict[str, object]] = [{"name": name, "digest": "d" * 64, "shape": [], "counts": {}} for name in "abc"]
    with database.write() as s:
        insert_new(s, tables.Dataset, given[:1], shared={"classes": 1, "created_at": AT})
        made = insert_new(s, tables.Dataset, given, tables.Dataset.name, shared={"classes": 2, "created_at": AT})
    assert sorted(row.name for row in made) == ["b", "c"]
    with database.read() as s:
        assert list(s.scalars(select(tables.Dataset.classes).order_by(tables.Dataset.name))) == [1, 2, 2]


@pytest.mark.parametrize("ids", [[], [2], [3, 1, 3], [1, 2**63 - 1]])
def test_rows_among_a_list_of_ids(database: Database, ids: list[int]) -> None:
    with database.write() as s:
        insert_all(s, tables.Job, [{"kind": "fit", "payload": {}} for _ in range(3)])
    inside = select(tables.Job.id).where(among(tables.Job.id, "ids")).order_by(tables.Job.id)
    outside = select(tables.Job.id).where(~among(tables.Job.id, "ids")).order_by(tables.Job.id)
    with database.read() as s:
        assert list(s.scalars(inside, {"ids": ids})) == [each for each in (1, 2, 3) if each in ids]
        assert list(s.scalars(outside, {"ids": ids})) == [each for each in (1, 2, 3) if each not in ids]


def test_only_what_reads_goes_by_statistics(database: Database) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite's planner is not told")
    shown = text("SELECT current_setting('enable_seqscan') || ' ' || current_setting('enable_sort')")
    for _ in range(2):  # whichever connection it is
        with database.write() as s:
            assert s.scalars(shown).one() == "off off"
        with database.read() as s:
            assert s.scalars(shown).one() == "on on"
            s.commit()
            assert s.scalars(shown).one() == "on on"


def test_text_that_is_too_long_is_refused_not_cut(database: Database) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite knows no lengths")
    with pytest.raises(DataError), database.write() as s:
        insert_all(s, tables.Dataset, _datasets("n" * 64))
    assert _names(database) == []


def test_a_batch_may_hold_a_repeated_report_and_new_ones_of_one_architecture(database: Database) -> None:
    world = World(database).found()
    with database.write() as s:
        (architecture,) = architectures.ensure(s, world.space, world.genes(1))

    def report(job: int, value: float) -> Entry:
        return Entry(architecture, HERE, {"error": value}, job_id=job, token=1)

    with database.write() as s:
        ((first,),) = ledger.record_all(s, [report(1, 0.1)])
    with database.write() as s:
        (second,), (again,), (third,) = ledger.record_all(s, [report(2, 0.2), report(1, 0.1), report(3, 0.3)])
    assert again == first
    with database.read() as s:
        stored = s.scalars(select(tables.Measurement).order_by(tables.Measurement.attempt)).all()
    assert [(m.id, m.attempt, m.value) for m in stored] == [(first, 0, 0.1), (second, 1, 0.2), (third, 2, 0.3)]


def test_the_listening_socket_says_that_it_is_tcp() -> None:
    """Else asyncio leaves Nagle's algorithm on, and answers wait 40 ms for an acknowledgement."""
    with bind(Settings(port=0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP
