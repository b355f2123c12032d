"""What docs/spaces.md says, done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search_spaces.plugins import names
from service.cli.root import app
from tests.documents import ROOT, blocks, commands

PAGE = ROOT / "docs/spaces.md"


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(PAGE, "python")
    made: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), made)
    assert made["space"].valid(made["children"]).all()
    assert str(len(made["near"])) in capsys.readouterr().out


def test_its_commands_without_a_server_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = [words for words in commands(PAGE) if {"--plugins", "--plugin"} & set(words) and "create" not in words]
    assert {words[1] for words in alone} == {"list", "show", "sample", "draw"}
    for words in alone:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    assert (tmp_path / "cell.svg").read_text().startswith("<svg")


def test_its_table_has_every_space() -> None:
    listed = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(listed) == names("spaces")
