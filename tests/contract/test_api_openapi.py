"""The OpenAPI document is complete: walked, not sampled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.install import TAGS
from service.app import create_app
from tests.serving import settings_in


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    app = create_app(settings_in(Path(tmp_path_factory.mktemp("api"))))
    yield app.openapi()
    app.state.database.dispose()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", op) for path, ops in document["paths"].items() for method, op in ops.items()]


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= set(TAGS), name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{name}: {parameter['name']}"
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_every_operation_documents_its_errors_as_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        expected = {"403", "500", "503"}
        if "requestBody" in operation:
            expected |= {"400", "413", "422"}
        if "{" in name.split(":")[0].partition("artifacts")[0]:
            expected |= {"404", "422"}
        assert expected <= errors.keys(), name
        for status, answer in errors.items():
            assert answer["description"], (name, status)
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, (name, status)
            assert list(answer["content"]) == ["application/problem+json"], (name, status)
        assert "Retry-After" in errors["503"]["headers"], name
        guarded = name not in ("get /healthz", "get /readyz")
        assert guarded == ({"401", "429"} <= errors.keys()), name
        assert guarded == bool(operation.get("security")), name
        if guarded:
            assert "WWW-Authenticate" in errors["401"]["headers"], name
            assert "Retry-After" in errors["429"]["headers"], name


def test_every_success_says_what_it_answers(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status < "400" and not name.startswith("head "):
                assert answer.get("content"), (name, status)


def test_every_field_is_described(document: dict[str, Any]) -> None:
    missing = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    assert missing == []


def test_every_schema_is_used_and_every_reference_is_there(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        match node:
            case dict():
                for key, value in node.items():
                    if key == "$ref":
                        yield value.removeprefix("#/components/schemas/")
                    else:
                        yield from references(value)
            case list():
                for value in node:
                    yield from references(value)

    assert set(references(document)) == set(document["components"]["schemas"])
