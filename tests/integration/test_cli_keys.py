"""Keys on the command line, and a whole server that asks for them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import structlog

from service.cli.root import main
from service.client import Client
from service.core.scopes import Scope
from service.db import keys
from service.db.session import Database
from service.wire.keys import KeyIn
from service.wire.spaces import SpaceIn
from service.wire.studies import ScoreIn, StudyIn
from tests.commands import Run, runner
from tests.integration.test_cli_serve import PATIENCE_S, address, until
from tests.serving import SPACE, STUDY

TOKEN = re.compile(r"frontier_[A-Za-z0-9_\-]{43}\n")


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Commands that write audit lines set up logging for their process, which here is the tests'."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], database_url: str) -> Run:
    """Runs a command on the test's database."""
    monkeypatch.setenv("FRONTIER_DATABASE_URL", database_url)
    return runner(monkeypatch, capsysbinary)


def test_a_key_is_made_listed_and_revoked(run: Run, database: Database) -> None:
    code, out, err = run("keys", "create", "ci", "--scopes", "read,write", "--expires", "90d")
    assert code == 0, err
    assert TOKEN.fullmatch(out)
    assert out.strip() not in err
    assert "ci" in err
    with database.read() as s:
        found = keys.holder(s, keys.hash_of(out.strip()))
    assert found is not None
    assert found.scopes == {Scope.READ, Scope.WRITE}

    code, out, err = run("keys", "list")
    assert code == 0, err
    assert re.search(r"ci +read, write +good", out)
    listed = json.loads(run("keys", "list", "--json")[1])
    assert [key["name"] for key in listed] == ["ci"]

    code, out, err = run("keys", "revoke", "ci")
    assert code == 0, err
    assert "no key is left" in err
    assert "revoked" in run("keys", "list")[1]
    code, _, err = run("keys", "revoke", "nobody")
    assert (code, "there is no key 'nobody'" in err) == (1, True)


def test_a_key_that_cannot_be_made_is_explained(run: Run) -> None:
    assert run("keys", "create", "ci", "--scopes", "read")[0] == 0
    code, out, err = run("keys", "create", "ci", "--scopes", "read")
    assert (code, out) == (1, "")
    assert "not used again" in err
    for arguments, said in (
        (("other", "--scopes", "all"), "no scope 'all'"),
        (("other", "--scopes", ","), "names no scope"),
        (("other", "--scopes", "read", "--expires", "soon"), "30m, 12h, 90d, 8w"),
        (("other", "--scopes", "read", "--expires", "0d"), "future"),
        (("Other One", "--scopes", "read"), "name"),
    ):
        code, out, err = run("keys", "create", *arguments)
        assert (code != 0, out) == (True, ""), arguments
        assert said in " ".join(re.sub(r"[│╭╰─]", " ", err).split()), (arguments, err)


def test_the_first_key_needs_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["frontier", "keys", "create", "ci", "--scopes", "admin", "--home", str(tmp_path)])
    with suppress(SystemExit):
        main()
    assert TOKEN.fullmatch(capsys.readouterr().out)
    assert (tmp_path / "frontier.db").exists()


@contextmanager
def serving(home: Path, environment: Mapping[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), "--port", "0", "--no-gpu-workers"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


def test_a_server_with_keys_works_with_its_own_worker(tmp_path: Path) -> None:
    """The worker gets a key of its own, which nobody sees; whoever else comes needs one. Bound to all addresses."""
    home = tmp_path / "home"
    database = Database(f"sqlite:///{home / 'frontier.db'}")
    database.upgrade()
    with database.write() as s:
        token = keys.create(s, KeyIn(name="boss", scopes=[Scope.ADMIN])).token
    environment = {"FRONTIER_DATABASE_URL": "", "FRONTIER_KEY": token}
    with serving(home, environment, "--host", "0.0.0.0") as process:
        url = address(home)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/v1/workers", trust_env=False).status_code == 401
        with Client(url, token) as client:
            until(lambda: any(worker.alive for worker in client.workers.list()), "the worker")
            client.spaces.create(SpaceIn.model_validate(SPACE))
            body = {**STUDY, "supernet": None, "evaluator": {"name": "training"}}
            made = client.studies.create(StudyIn.model_validate(body))
            (job,) = client.studies.score(made.name, ScoreIn(proxies=["synflow"], sample=3)).jobs
            assert client.jobs.wait(job, timeout_s=PATIENCE_S).state == "SUCCEEDED"
            names = {key.name: key for key in client.keys.list()}
        (own,) = (name for name in names if name.startswith("local-worker-"))
        assert names[own].scopes == [Scope.WORKER]
        listing = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
        ours = [line for line in listing.splitlines() if "service.cli" in line]
        assert any(" worker " in line for line in ours)
        assert not any("frontier_" in line for line in ours)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, said
    logs = "".join(file.read_text() for file in (home / "logs").iterdir())
    assert '"audit"' in logs
    assert not re.search(TOKEN.pattern.strip(), logs + said)
    with database.read() as s:
        ended = {key.name: key.revoked_at for key in keys.page(s, 10).items}
    assert ended[own] is not None
    assert ended["boss"] is None
    database.dispose()
