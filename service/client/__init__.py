"""The typed client of the REST interface: what research pipelines, workers and the command line use.

Needs httpx, pydantic and numpy, nothing else. ::

    from service.client import Client

    with Client("http://127.0.0.1:8470") as frontier:
        for point in frontier.studies.front("digits").points:
            print(point.metrics)

Errors, as one tree::

    FrontierClientError
    ├── ConnectionFailed    no answer: the server is not there, or the connection broke
    ├── UnexpectedAnswer    an answer that is not Frontier's: another server, or a much newer release
    ├── DigestMismatch      a file arrived that is not the one asked for
    ├── JobFailed           a job that was waited for did not succeed; carries the job
    ├── WaitTimeout         a job that was waited for had not ended in time; carries the job
    └── ApiError            the server refused: carries status, problem and request id
        ├── Unauthorized    401: no key, or one that is unknown, revoked or expired
        ├── Forbidden       403: the key's scopes do not allow it
        ├── NotFound        404
        ├── Conflict        409
        │   ├── Stale       somebody else has a newer lease
        │   └── StillRunning  the same request is being answered at this moment, after several tries
        ├── Invalid         422: the problem names each field
        ├── TooMany         429, after several tries
        └── Unavailable     503, after several tries

Functions that evaluate (`Client.optimize`) get a `Running` trial, may raise `Infeasible`, and are ended by `Stopped`.
"""

from service.client.client import Client
from service.client.errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    DigestMismatch,
    Forbidden,
    FrontierClientError,
    Invalid,
    JobFailed,
    NotFound,
    Stale,
    StillRunning,
    TooMany,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    WaitTimeout,
)
from service.core.errors import Infeasible
from service.core.errors import Stop as Stopped
from service.core.functions import Function, Running

__all__ = [
    "ApiError",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "DigestMismatch",
    "Forbidden",
    "FrontierClientError",
    "Function",
    "Infeasible",
    "Invalid",
    "JobFailed",
    "NotFound",
    "Running",
    "Stale",
    "StillRunning",
    "Stopped",
    "TooMany",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "WaitTimeout",
]
