"""The OpenAPI document: FastAPI's, with every error documented and every field described."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.auth import OPEN, needed
from service.api.problems import MEDIA_TYPE
from service.wire.base import Problem
from service.wire.jobs import EventOut

IDEMPOTENCY_KEY = "Idempotency-Key"
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_MEANINGS: Mapping[int, str] = {
    400: "The body cannot be read.",
    401: "No key came with the request, or one that is unknown, revoked or expired; `detail` says which.",
    403: "The key's scopes do not allow it, or the request comes from elsewhere: another machine, host or web site.",
    404: "There is no such thing; `errors` names its kind.",
    409: "It clashes with what is stored, the lease is held by somebody else now (`urn:frontier:stale`), or "
    "the same request is being answered at this moment (`urn:frontier:still-running`).",
    413: "The body is larger than the server takes.",
    422: "The request is wrong; `errors` names each field and what would be right.",
    429: "The caller sends too many requests, or its address too many wrong keys.",
    500: "The server failed. The log has more under the request id.",
    503: "Something that is needed is not there at present; trying again helps.",
}
_ALWAYS = (403, 500, 503)
_WITH_BODY = (400, 413)
_GUARDED = (401, 429)
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of this server. The scopes of which a caller needs one stand with each operation. While no "
    "key was made, requests from the server's own machine need none.",
}
_WAIT = {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`, and what is wrong (RFC 6750).", "schema": {"type": "string"}}},
    429: {"Retry-After": _WAIT},
    503: {"Retry-After": _WAIT},
}

# Descriptions of fields that mean the same wherever they occur; a field's own description wins.
_GLOSSARY: Mapping[str, str] = {
    "artifact": "SHA-256 of the file that holds it, 64 hex digits; null until it is there.",
    "attempts": "How often it was leased.",
    "body": "What happened; its fields depend on the kind.",
    "cancelled": "Number of trials that were cancelled.",
    "config": "Choice name → option; inactive choices left out.",
    "constraints": "Bounds on metrics; an architecture outside is not on the front.",
    "count": "How many at most.",
    "counts": "Its trials by state.",
    "designer": "Name of a `frontier.designers` plug-in.",
    "device": "What the worker computes on.",
    "direction": "minimise or maximise.",
    "ended_at": "When it ended, UTC; null before.",
    "epistemic_std": "Standard deviation that more data would remove, in the metric's unit.",
    "evaluator": "How architectures are measured.",
    "failed": "Number of trials whose work raised.",
    "fidelity": "Share of the full evaluation, in (0, 1].",
    "formats": "File formats to write.",
    "genes": "One option index per choice.",
    "id": "Id, unique among its kind.",
    "infeasible": "Number of trials whose architecture cannot be built or breaks a hard constraint.",
    "items": "The items, in order.",
    "job": "Id of the job.",
    "key": "128-bit key of the architecture, hex.",
    "kind": "What kind it is.",
    "leased": "Number of trials in the hands of workers.",
    "leased_at": "When a worker last took it, UTC; null before.",
    "leases": "Jobs that are yours until their leases end.",
    "lost": "Number of trials whose worker vanished.",
    "mean": "Predicted mean, in the metric's unit.",
    "measured": "Measured value, in the metric's unit.",
    "metrics": "Metric → value, each in the metric's unit.",
    "number": "Number, counted from 1.",
    "objectives": "What is optimised.",
    "on_front": "Whether it is on the study's Pareto front.",
    "options": "Options of the plug-in.",
    "paid_s": "Seconds of work paid for it; 0 if it was answered from the ledger.",
    "points": "One per architecture.",
    "predicted": "What was predicted before it was measured, in the metric's unit.",
    "probe": "Drawn uniformly, for the audit of predictors.",
    "progress": "done, total, note and reports of the job so far.",
    "pruned": "Number of trials that were ended early.",
    "queued": "Number of trials that wait for a worker.",
    "reason": "Why it is in this state; empty when there is nothing to say.",
    "result": "What the job produced; its fields depend on the kind. Null before its end.",
    "results": "One per finished job.",
    "search": "Id of the search, or its number in the study where that is said; null if there is none.",
    "seconds": "Seconds of work.",
    "seed": "Seed of everything random in it.",
    "state": "State it is in.",
    "std": "Standard deviation with noise, for intervals, in the metric's unit.",
    "step": "Step of the job that reports, from 1.",
    "study": "Name of the study; null if there is none.",
    "succeeded": "Number of trials that were measured.",
    "supernet": "Name of the super-network whose weights are used; null if none.",
    "task": "What networks are trained and measured on.",
    "test_metrics": "Metric → value on the test split; only architectures of a front have them.",
    "token": "The fence that came with the lease.",
    "traceback": "Traceback of the failure; null if there is none.",
    "trial": "Id of the trial; null if there is none.",
    "value": "Measured value, in the metric's unit.",
    "worker": "Name of the worker; null if there is none.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can fail in these ways, besides those that every route can."""
    return {status: {"description": _MEANINGS[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Replaces the application's document by the complete one, made on first use."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            plain = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            app.openapi_schema = _complete(plain)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # FastAPI's own shape of errors is never sent
    for model in (Problem, EventOut):  # referred to by what FastAPI does not look into
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for path, method, operation in _operations(document):
        if not OPEN.fullmatch(path):
            scopes = needed(method.upper(), path).scopes
            operation["security"] = [{"key": [str(scope)]} for scope in scopes]
        _document_problems(operation)
    document["components"]["securitySchemes"] = {"key": _KEY}
    for schema in schemas.values():
        for field, described in schema.get("properties", {}).items():
            if "description" not in described and field in _GLOSSARY:
                described["description"] = _GLOSSARY[field]
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            yield path, method, operation


def _document_problems(operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    statuses = {int(status) for status in responses if status.isdigit() and int(status) >= 400}
    statuses.update(_ALWAYS)
    if "security" in operation:
        statuses.update(_GUARDED)
    if "requestBody" in operation:
        statuses.update(_WITH_BODY)
    if "requestBody" in operation or "parameters" in operation:
        statuses.add(422)
        if any(parameter["name"] == IDEMPOTENCY_KEY for parameter in operation.get("parameters", [])):
            statuses.add(409)
    elif "422" in responses:
        statuses.remove(422)
        del responses["422"]
    if "200" in responses and "content" in responses.get("201", {}):
        # A creation answers the same, whether it was new or not.
        responses["200"] = {**responses["200"], "content": responses["201"]["content"]}
    for status in sorted(statuses):
        headers = {"X-Request-ID": {"description": "Names the request in the log.", "schema": {"type": "string"}}}
        headers.update(_HEADERS.get(status, {}))
        responses[str(status)] = {
            "description": _MEANINGS[status],
            "headers": headers,
            "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}},
        }
