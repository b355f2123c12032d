"""Schemathesis against a running server, with keys, on both databases: no 5xx, and no answer that is not documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.app import create_app
from service.core.scopes import Scope
from service.db import keys
from service.db.session import Database
from service.settings import Settings
from service.wire.keys import KeyIn
from tests.serving import evaluate, make_search, make_study, served

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
)


def test_no_server_errors_and_no_undocumented_answers(database: Database, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=0, poll_s=0.02, rate=0)
    with served(settings, create_app(settings, database)) as running:
        make_study(running.http)
        search = make_search(running)
        evaluate(running.http, 3)
        # Otherwise pipelines that ask for its trials wait up to 30 seconds each time.
        running.http.post(f"/v1/searches/{search}:cancel").raise_for_status()
        with database.write() as s:
            token = keys.create(s, KeyIn(name="fuzzer", scopes=[Scope.ADMIN])).token
        command = [
            str(Path(sys.executable).with_name("st")),
            "run",
            f"{running.url}/openapi.json",
            "--header",
            f"Authorization: Bearer {token}",
            "--checks",
            ",".join(CHECKS),
            "--phases",
            "examples,coverage,fuzzing",
            # The stream of events never ends; tests/contract/test_api_streams.py reads it.
            "--exclude-path",
            "/v1/events",
            # It would revoke its own key.
            "--exclude-path",
            "/v1/keys/{key}:revoke",
            "--max-examples",
            "6",
            "--request-timeout",
            "40",
            "--generation-deterministic",
            "--warnings",
            "off",
            "--no-color",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
