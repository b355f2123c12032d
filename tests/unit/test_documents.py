"""Whatever README and docs tell people to type, the program understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import PAGES, ROOT, commands
from tests.unit.test_deployment import parse

EVERY = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), EVERY, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in EVERY])
def test_every_command_is_understood(page: str, words: list[str]) -> None:
    if words[-1] != "--help":
        parse(words)


def test_there_are_commands() -> None:
    assert {page for page, _ in EVERY} >= {"README.md", "deployment.md", "tables.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    for named in re.findall(r"`((?:docs|tests|benchmarks|service|migrations)/[\w./-]+\.\w+)`", page.read_text()):
        assert (ROOT / named).exists(), named
