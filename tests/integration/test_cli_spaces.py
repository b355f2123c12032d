"""``frontier spaces`` with plug-ins, for which there need be no server, and with stored spaces."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np
import pytest

from search_spaces.plugins import load, names
from search_spaces.space import SearchSpace, Unsupported
from service.cli import spaces
from service.cli.common import out
from tests.commands import Run, runner
from tests.serving import served, settings_in
from tests.spaces import CASES

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
CHOICES = [{"name": "depth", "options": [1, 2]}, {"name": "kernel", "options": [3, 5], "when": {"depth": [2]}}]
DECLARED = json.dumps({"choices": CHOICES})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands that fail if they ask a server."""

    def connect(url: str | None) -> NoReturn:
        raise AssertionError("a server was asked")

    monkeypatch.setattr(spaces, "connect", connect)
    return run


def labels(picture: str) -> list[str | None]:
    """Those of its boxes."""
    titles = ElementTree.fromstring(picture).findall(".//{*}g[@class]/{*}title")
    return [each.text for each in titles]


# ---------------------------------------------------------------------- plug-ins


def test_plugins_are_listed_with_what_they_can(alone: Run) -> None:
    found = {each["plugin"]: each for each in alone("spaces", "list", "--plugins", "--json").json}
    assert list(found) == names("spaces")
    assert found["nasbench201"] == {
        "plugin": "nasbench201",
        "choices": 6,
        "architectures": "5260",
        "uniform_over": "architectures",
        "counted": ["macs", "params"],
        "builds": True,
        "supernet": False,
        "description": found["nasbench201"]["description"],
    }
    assert "NAS-Bench-201" in found["nasbench201"]["description"]
    assert found["mobilenetv3"]["supernet"]
    # It has no options of its own: nothing follows but that it has no networks.
    nothing = {name for name, value in found["declared"].items() if value is None}
    assert nothing == {"choices", "architectures", "uniform_over", "counted"}
    assert not found["declared"]["builds"]
    text = alone("spaces", "list", "--plugins").out
    assert "uniform over" in text
    assert "26,206" in text


def test_what_is_said_to_be_missing_is(alone: Run) -> None:
    """No torch is loaded to say it; here it is."""
    for each in alone("spaces", "list", "--plugins", "--json").json:
        space: SearchSpace = load("spaces", each["plugin"])(**(json.loads(DECLARED) if not each["choices"] else {}))
        if not each["builds"]:
            with pytest.raises(Unsupported):
                space.build(space.extremes()[0])
        if not each["supernet"]:
            with pytest.raises(Unsupported):
                space.supernet()


def test_a_plugin_is_shown_with_its_options_filled_in(alone: Run) -> None:
    shown = alone(
        "spaces", "show", "--plugin", "nasbench201", "--options", '{"cells": 2}', "--identity", "row", "--json"
    )
    assert shown.json["options"]["cells"] == 2
    assert shown.json["options"]["classes"] == 10
    space: SearchSpace = load("spaces", "nasbench201")(cells=2, identity="row")
    assert (shown.json["digest"], shown.json["architectures"]) == (space.digest, "15625")
    assert [choice["name"] for choice in shown.json["choices"]] == [choice.name for choice in space.choices]
    text = alone("spaces", "show", "--plugin", "nasbench201").out
    for said in ("architectures 5,260", "uniform over architectures", "counts MACs, parameters", "super-network no"):
        assert said in text


def test_a_plugin_is_sampled(alone: Run) -> None:
    asked = ("spaces", "sample", "--plugin", "nasbench201", "--count", "3", "--seed", "7", "--json")
    drawn = alone(*asked).json
    assert drawn == alone(*asked).json
    space: SearchSpace = load("spaces", "nasbench201")()
    expected = space.sample(3, np.random.default_rng(7))
    assert [each["genes"] for each in drawn] == expected.tolist()
    assert [each["notation"] for each in drawn] == space.notation(expected)


def test_a_narrow_table_leaves_nothing_out(alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 80)
    _, *lines = alone("spaces", "sample", "--plugin", "nasbench201", "--count", "1").out.splitlines()
    space: SearchSpace = load("spaces", "nasbench201")()
    (text,) = space.notation(space.sample(1, np.random.default_rng(0)))
    assert "".join(line.split()[-1] for line in lines) == text


# ---------------------------------------------------------------------- pictures


def test_an_architecture_is_drawn_from_all_that_can_say_it(alone: Run, tmp_path: Path) -> None:
    space: SearchSpace = load("spaces", "nasbench201")()
    genes = space.from_notation([CELL])
    config, (row,) = space.to_configs(genes)[0], genes.tolist()
    first = alone("spaces", "draw", "--plugin", "nasbench201", CELL)
    assert first.code == 0
    assert labels(first.out) == ["input", "nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "output"]
    assert f"nasbench201 {CELL}" in first.out
    said = tmp_path / "said"
    for text in (CELL, json.dumps(CELL), json.dumps(config), json.dumps(row)):
        said.write_text(f"{text}\n")
        assert alone("spaces", "draw", "--plugin", "nasbench201", text).out == first.out
        assert alone("spaces", "draw", "--plugin", "nasbench201", f"@{said}").out == first.out
    file = tmp_path / "cell.svg"
    written = alone("spaces", "draw", CELL, "--plugin", "nasbench201", "-o", str(file))
    assert (written.code, written.out, written.err.strip()) == (0, "", str(file))
    assert file.read_text() == first.out


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("-tiny")])
def test_notation_config_and_genes_are_told_apart_in_every_space(case: str) -> None:
    plugin, options = CASES[case]
    space: SearchSpace = load("spaces", plugin)(**options)
    genes = space.sample(5, np.random.default_rng(2))
    said: list[list[Any]] = [
        [json.dumps(each) for each in space.to_configs(genes)],
        list(map(json.dumps, genes.tolist())),
    ]
    with suppress(Unsupported):
        said.append(space.notation(genes))
    for texts in said:
        np.testing.assert_array_equal(np.concatenate([spaces._read(space, text) for text in texts]), genes)


def test_long_notations_are_cut_in_titles(alone: Run) -> None:
    space: SearchSpace = load("spaces", "mobilenetv3")()
    genes = space.extremes()[1].tolist()
    text = alone("spaces", "draw", "--plugin", "mobilenetv3", json.dumps(genes)).out
    title = ElementTree.fromstring(text).findtext("{*}title")
    assert title is not None
    assert title.startswith("mobilenetv3 ")
    assert len(title) < 400
    assert "\n" not in title


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["draw", "--plugin", "nasbench201", CELL.replace("none", "gone", 1)], "row 0: e02: no such operation 'gone'"),
        (["draw", "--plugin", "nasbench201", "[0, 1, 2, 3, 4, 5]"], "row 0: e23: gene 5 is out of range"),
        (["draw", "--plugin", "nasbench201", "[0, 1]"], "row 0: genes: a row has 6 genes"),
        (["draw", "--plugin", "nasbench201", '{"e01": "none"}'], "row 0: e02: is missing"),
        (["draw", "--plugin", "nasbench201", '{"e01": 3}'], "row 0: e01: no such option 3"),
        (["draw", "--plugin", "nasbench201", "{"], "row 0: notation: must read"),
        (["draw", "--plugin", "nasbench201", "@/nope"], "cannot be read"),
        (["draw", "--plugin", "nasbench201"], "is missing: a notation, JSON, or @FILE"),
        (["draw", "--plugin", "declared", "--options", DECLARED, "x"], "has no notation: give a config"),
        (["draw", "--plugin", "declared", "--options", DECLARED, '{"x": 1}'], "row 0: x: no such choice"),
        (["draw", "--plugin", "nope", "x"], "plugin: no space named 'nope'"),
        (["draw", "mine", CELL, "--plugin", "nasbench201"], "not both"),
        (["show", "mine", "--plugin", "nasbench201"], "not both"),
        (["show", "mine", "--options", "{}"], "is for --plugin"),
        (["sample", "mine", "--identity", "row"], "is for --plugin"),
        (["show"], "is missing: the name of a stored space, or --plugin"),
        (["show", "--plugin", "nasbench201", "--options", '{"cells": 0}'], "options.cells: must be 1 to 32"),
        (["show", "--plugin", "nasbench201", "--options", '{"sells": 1}'], "options.sells: no such option"),
        (["show", "--plugin", "nasbench201", "--options", "[1]"], "must be a JSON object"),
        (["sample", "--plugin", "nasbench201", "--identity", "both"], "identity: "),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(alone: Run, arguments: list[str], said: str) -> None:
    ran = alone("spaces", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.split())


def test_a_file_that_cannot_be_written_is_one_line(alone: Run, tmp_path: Path) -> None:
    ran = alone("spaces", "draw", "--plugin", "nasbench201", CELL, "-o", str(tmp_path / "no" / "x.svg"))
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1


# ---------------------------------------------------------------------- stored spaces


def test_stored_spaces_are_shown_and_drawn(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(settings_in(tmp_path)) as server:
        monkeypatch.setenv("FRONTIER_URL", server.url)
        made = run(
            "spaces", "create", "cells", "--plugin", "nasbench201", "--options", '{"cells": 1}', "--identity", "row"
        )
        assert made.code == 0
        shown = run("spaces", "show", "cells").out
        assert "architectures 15,625" in shown
        assert "uniform over architectures" in shown
        drawn = run("spaces", "draw", "cells", CELL)
        assert (drawn.code, len(labels(drawn.out))) == (0, 6)
        assert f"cells {CELL}" in drawn.out
        wrong = run("spaces", "draw", "cells", "[9]")
        assert wrong.code == 2
        assert "row 0: genes" in wrong.err
        assert run("spaces", "draw", "nope", CELL).code == 1
        # A graph for each way that choices can be made, also where there are no networks.
        assert run("spaces", "create", "mine", "--plugin", "declared", "--options", DECLARED).code == 0
        assert labels(run("spaces", "draw", "mine", '{"depth": 2, "kernel": 5}').out) == ["depth=2", "kernel=5"]
