"""Tables read, checked and put aside: without a database."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.space import SearchSpace
from service.core.errors import Invalid
from service.core.metrics import Circumstances
from service.core.spaces import build_space
from service.exchange import Errors, Layout, Rows, Spool, read
from service.exchange.architectures import option_text
from service.exchange.report import LISTED, describe
from service.exchange.spool import Records, join_keys, ordered, record_type
from service.wire.exchange import TableFormat
from tests.tables import FORMATS, encode
from tests.world import TINY

OWN = Circumstances(dataset="d", split="validation", evaluator="training", options={}, weights=None, seed=0)


def declared(*options: list[Any]) -> SearchSpace:
    choices = [{"name": f"c{index}", "options": each} for index, each in enumerate(options)]
    return build_space("declared", {"choices": choices}, "row")


# Texts that look like something else.
AWKWARD = declared(
    ["plain", "a,b", 'a"b', "ünïcode 漢字", "#", "=1+1"],
    ["1", 2, 1.5, "true", "null", "[]", '"q"'],
    [-1, 0, 3, 0.001],
)
SPACES = {
    "mobilenetv3": build_space("mobilenetv3", TINY, "function"),
    "mobilenetv3 rows": build_space("mobilenetv3", TINY, "row"),
    "nasbench201": build_space("nasbench201", {}, "function"),
    "awkward": AWKWARD,
}


def taken(
    space: SearchSpace, kind: TableFormat, content: bytes, **mapping: dict[str, str]
) -> tuple[list[Records], Rows, Errors]:
    errors = Errors()
    layout = Layout([choice.name for choice in space.choices], mapping.get("columns", {}), mapping.get("metrics", {}))
    rows = Rows(space, layout, OWN, lambda circumstances, name: circumstances.context(name), errors)
    return [rows.take(batch) for batch in read(kind, io.BytesIO(content), layout)], rows, errors


def genes_of(space: SearchSpace, kind: TableFormat, rows: list[dict[str, Any]]) -> Any:
    found, _, errors = taken(space, kind, encode(kind, rows))
    assert errors.first() == []
    return np.concatenate(found)["genes"] if found else np.zeros((0, len(space.choices)), np.int8)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_config_to_genes_to_config(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    seed, count = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 20))
    genes = space.sample(count, np.random.default_rng(seed))
    configs = space.to_configs(genes)
    values = {"metric": "error", "value": 0.5}
    ways: list[list[dict[str, Any]]] = [
        [{"config": config, **values} for config in configs],
        [{"genes": row, **values} for row in genes.tolist()],
        [{**{f"config.{choice}": option for choice, option in config.items()}, **values} for config in configs],
    ]
    for kind in ("ndjson", "json", "csv"):
        for rows in ways:
            if kind == "csv":
                rows = [{n: option_text(v) if n.startswith("config.") else v for n, v in row.items()} for row in rows]
            found = genes_of(space, kind, rows)  # type: ignore[arg-type]
            assert (found == genes).all()
            assert space.to_configs(found) == configs


def test_options_are_told_apart_as_texts() -> None:
    for choice in AWKWARD.choices:
        assert len({option_text(option) for option in choice.options}) == len(choice.options)


def test_plain_numbers_are_read_where_nothing_else_is_written_so() -> None:
    space = declared(["3", "5"], [3, 5])
    assert genes_of(space, "csv", [{"config.c0": "5", "config.c1": "5", "metric": "error", "value": 1}]).tolist() == [
        [1, 1]
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_boolean_is_no_option(kind: TableFormat) -> None:
    space = declared([0, 1], ["a", "b"])
    for config in ({"c0": True, "c1": "a"}, {"c0": 1, "c1": None}, {"c0": [1], "c1": "a"}, {"c0": 1}):
        _, rows, errors = taken(space, kind, encode(kind, [{"config": config, "metric": "error", "value": 1}]))
        assert (rows.bad, errors.total) == (1, 1)
        assert errors.first()[0].field.startswith("config.c")


def test_each_row_of_an_architecture_is_read_for_itself() -> None:
    """Rows of one architecture follow each other; equal ones that are not the same must not pass for each other."""
    space = declared([0, 1], ["a", "b"])
    configs = (
        [{"c0": 1, "c1": "a"}] * 3 + [{"c0": True, "c1": "a"}] * 2 + [{"c0": 1.0, "c1": "a"}, {"c0": 7}, {"c0": 7}]
    )
    rows = [{"config": config, "metric": "error", "value": i} for i, config in enumerate(configs)]
    for kind in ("ndjson", "json"):
        (records,), _, errors = taken(space, kind, encode(kind, rows))
        assert [(each.row, each.field) for each in errors.first()] == [(row, "config.c0") for row in (4, 5, 7, 8)]
        assert "True" in errors.first()[0].message
        assert (records["row"].tolist(), records["genes"].tolist()) == ([1, 2, 3, 6], [[1, 0]] * 4)


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        (['{"value": [1', "2]}", '{"value": 1}, {"value": 2}'], {1, 2, 3}),
        (['{"value": {}', '}, {"value": 1}', "{}"], {1, 2}),
        (['{"worker": "a', 'b"}', "{},{}"], {1, 2, 3}),
        (['{"value": 1}', "", " \t", '{"value": 2}]', "[", "3"], {4, 5, 6}),
        (['{"value": 1}\r', '{"value": [{}, {}]}', '{"value": 1},'], {3}),
        (['{"value": 1}', '{"value": 2},{"value": 3}'], {2}),
    ],
)
def test_a_line_is_a_row_whatever_its_neighbours_hold(lines: list[str], bad: set[int]) -> None:
    """Lines that would be JSON together are not JSON each."""
    (batch,) = read("ndjson", io.BytesIO("\n".join(lines).encode()), Layout([], {}, {}))
    assert {batch.lines[index] for index in batch.broken} == bad
    assert list(batch.lines) == [number for number, line in enumerate(lines, 1) if line.strip()]


@pytest.mark.parametrize("kind", FORMATS)
def test_columns_that_disagree_are_noted(kind: TableFormat) -> None:
    space = declared([0, 1], ["a", "b"])
    row = {"config": {"c0": 0, "c1": "a"}, "genes": [0, 1], "metric": "error", "value": 1}
    _, rows, errors = taken(space, kind, encode(kind, [row, {**row, "genes": [0, 0]}]))
    assert rows.bad == 1
    assert [(each.row, each.field) for each in errors.first()] == [(1, "genes")]


@settings(max_examples=60, deadline=None)
@given(
    bad=st.sets(st.integers(0, 59)),
    kind=st.sampled_from(FORMATS),
    damage=st.sampled_from([{"value": "x"}, {"config": {"c0": 7}}, {"seed": -3}, {"metric": "9"}]),
)
def test_exactly_the_bad_rows_are_listed(bad: set[int], kind: TableFormat, damage: dict[str, Any]) -> None:
    space = declared([0, 1], ["a", "b"])
    good = {"config": {"c0": 0, "c1": "a"}, "metric": "error", "seed": 3}
    # Text in every row: a column of a Parquet file has one type.
    rows = [{**good, "value": str(i) if kind == "csv" else float(i)} for i in range(60)]
    if kind == "parquet" and "value" in damage:
        damage = {"value": float("nan")}
    rows = [{**row, **damage} if i in bad else row for i, row in enumerate(rows)]
    found, counted, errors = taken(space, kind, encode(kind, rows))
    assert sorted({each.row - 1 for each in errors.first()}) == sorted(bad)
    assert counted.bad == len(bad)
    assert sorted(np.concatenate(found)["value"].tolist()) == [float(i) for i in range(60) if i not in bad]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "note\n", "ключ"]),
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text()),
        ),
        max_size=20,
    ),
    st.integers(0, 3),
)
def test_lists_and_lines_of_json_are_the_same(rows: list[dict[str, Any]], indent: int) -> None:
    layout = Layout([], {"worker": "a", "device": "note\n", "split": "ключ"}, {})
    as_list = list(read("json", io.BytesIO(json.dumps(rows, indent=indent).encode()), layout))
    lines = "\r\n\n".join(json.dumps(row, ensure_ascii=bool(indent)) for row in rows)
    as_lines = list(read("ndjson", io.BytesIO(lines.encode("utf-8", "surrogatepass")), layout))
    if all(text.isascii() or indent for text in [lines]):
        assert [batch.columns for batch in as_list] == [batch.columns for batch in as_lines]


def test_pieces_of_a_long_list_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"worker": "x" * (i % 17), "seed": i, "device": "ü"} for i in range(500)]
    layout = Layout([], {}, {})
    for piece in (1, 2, 3, 7, 64):
        monkeypatch.setattr("service.exchange.readers._PIECE", piece)
        for content in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=1)):
            (batch,) = read("json", io.BytesIO(content.encode()), layout)
            assert batch.columns["seed"] == list(range(500))
        (batch,) = read("ndjson", io.BytesIO(encode("ndjson", rows)), layout)
        assert batch.columns["device"] == ["ü"] * 500


def test_a_long_file_comes_in_batches() -> None:
    rows = [{"genes": [0, 1], "metric": "error", "value": 1.0, "seed": i} for i in range(20_000)]
    for kind in FORMATS:
        layout = Layout(["c0", "c1"], {}, {})
        batches = list(read(kind, io.BytesIO(encode(kind, rows)), layout))
        assert len(batches) > 1
        assert [batch.first for batch in batches] == [
            1 + sum(b.count for b in batches[:i]) for i in range(len(batches))
        ]
        assert sum(batch.count for batch in batches) == 20_000


def test_seconds_are_shared_among_what_was_paid_for() -> None:
    space = SPACES["mobilenetv3"]
    genes = space.sample(1, np.random.default_rng(0))
    macs = int(space.cost(genes)["macs"][0])
    row = {"genes": genes[0].tolist(), "metrics": {"error": 0.5, "loss": 1.0, "macs": macs}, "seconds": 8}
    (records,), rows, _ = taken(space, "ndjson", encode("ndjson", [row]))
    paid = {rows.metrics[r["metric"]]: r["seconds"] for r in records}
    assert paid == {"error": 4.0, "loss": 4.0, "macs": 0.0}


@pytest.mark.parametrize(
    ("columns", "metrics", "field"),
    [
        ({"colour": "x"}, {}, "column"),
        ({"config.nope": "x"}, {}, "column"),
        ({"value": "x"}, {"error": "y"}, "column"),
        ({}, {"not a metric": "y"}, "metric"),
        ({}, {"error": ""}, "metric"),
    ],
)
def test_mappings_to_what_is_no_field_are_refused(columns: dict[str, str], metrics: dict[str, str], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Layout(["kernel"], columns, metrics)
    assert refused.value.field == field


def test_errors_are_counted_in_full_and_listed_in_part() -> None:
    errors = Errors()
    for row in range(5000, 0, -1):
        errors.add(row, "value", f"wrong \ud800 {row}")
    assert errors.total == 5000
    assert [each.row for each in errors.first()] == list(range(1, LISTED + 1))
    assert describe(errors.first(), errors.total).startswith("row 1, value: wrong")
    assert describe(errors.first(), errors.total).endswith("(and 4999 more)")
    errors.first()[0].model_dump_json()


@pytest.mark.parametrize("parts", [1, 8])
def test_a_spool_gives_back_by_key_what_it_was_given(tmp_path: Path, parts: int) -> None:
    rng = np.random.default_rng(0)
    records = np.zeros(1000, dtype=record_type(3))
    records["hi"], records["lo"] = rng.integers(0, 2**64, (2, 1000), dtype=np.uint64)
    records["row"], records["attempt"] = np.arange(1000), rng.integers(-1, 3, 1000)
    with Spool(tmp_path, 3, parts) as spool:
        for start in range(0, 1000, 300):
            spool.add(records[start : start + 300])
        assert spool.count == 1000
        back = np.concatenate([ordered(spool.read(part)) for part in spool.parts()])
        assert join_keys(back) == sorted(join_keys(records))
        assert sorted(back["row"].tolist()) == list(range(1000))
        first = next(spool.parts())
        held = len(spool.read(first))
        spool.replace(first, spool.read(first)[:2])
        assert (len(spool.read(first)), spool.count) == (2, 1000 - held + 2)
    assert list(tmp_path.iterdir()) == []
