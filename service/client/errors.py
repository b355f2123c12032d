"""The client's errors; the tree is drawn in `service.client`."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from service.wire.base import Problem
from service.wire.jobs import JobOut


class FrontierClientError(Exception):
    """The root of the tree."""


class ConnectionFailed(FrontierClientError):
    """There was no answer. The request may have been carried out or not."""


class UnexpectedAnswer(FrontierClientError):
    """The answer is not what this interface sends."""


class DigestMismatch(FrontierClientError):
    """The bytes that arrived are not those of the digest."""


class JobFailed(FrontierClientError):
    """The job ended otherwise than by succeeding."""

    def __init__(self, job: JobOut) -> None:
        reason = f": {job.reason}" if job.reason else ""
        super().__init__(f"job {job.id} ({job.kind}) ended {job.state}{reason}")
        self.job = job


class WaitTimeout(FrontierClientError):
    """The job has not ended yet. It goes on."""

    def __init__(self, job: JobOut, seconds: float) -> None:
        super().__init__(f"job {job.id} ({job.kind}) is {job.state} after {seconds:g} s")
        self.job = job


class ApiError(FrontierClientError):
    """The server answered with a problem."""

    def __init__(self, problem: Problem, request_id: str) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = problem.status
        self.request_id = request_id


class NotFound(ApiError):
    """There is no such thing."""


class Conflict(ApiError):
    """It clashes with what is stored."""


class Stale(Conflict):
    """The lease is held by somebody else now."""


class StillRunning(Conflict):
    """The same request is being answered at this moment."""


class Invalid(ApiError):
    """The request is wrong."""


class Unauthorized(ApiError):
    """The server asks for a key, or this one does not count."""


class Forbidden(ApiError):
    """The key's scopes do not allow it, or the request comes from elsewhere."""


class TooMany(ApiError):
    """Too many requests."""


class Unavailable(ApiError):
    """The server could not serve the request now."""


_KINDS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: Invalid,
    429: TooMany,
    503: Unavailable,
}
_TYPES: dict[str, type[ApiError]] = {"urn:frontier:stale": Stale, "urn:frontier:still-running": StillRunning}


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer of status 400 and above (its body read) stands for."""
    try:
        problem = Problem.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        # Something between us and the server answered: keep the status, which says most.
        detail = f"{response.request.method} {response.request.url} answered {response.status_code}"
        problem = Problem(title=response.reason_phrase, status=response.status_code, detail=detail)
    kind = _KINDS.get(response.status_code, ApiError)
    kind = _TYPES.get(problem.type, kind)
    return kind(problem, response.headers.get("x-request-id", ""))
