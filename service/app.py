"""The application: the REST interface and the dashboard over one database, and the process that serves them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI

from service import api
from service.access import Keyring
from service.api.deps import Services
from service.api.feed import Feed
from service.api.install import TAGS
from service.api.jobs import take_back
from service.api.metrics import Metrics
from service.api.retention import trim_events
from service.api.together import Queue
from service.dashboard import router as dashboard
from service.db import keys
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.garbage import collect_rarely
from service.listening import bind
from service.settings import Settings

KEEP_ALIVE_S = 75
"""Idle connections stay open so long: longer than workers pause, so that their next request finds its connection."""
GRACE_S = 5
"""Seconds that open requests have to end at shutdown; streams and long-polls end at once."""

DESCRIPTION = """\
Neural architecture search as a service.

Long work answers 202 with a job; follow it under `/v1/jobs`. Lists come in pages: pass `next_page_token` as
`page_token`. Creating by name twice with the same body returns the first. Errors are `application/problem+json` that
name each field. Times are UTC, metric units are part of the metrics' names (`latency_ms`, `macs`, `params`).
"""


def create_app(settings: Settings, database: Database | None = None) -> FastAPI:
    """The application. A database that is given stays open at the end; one made here is closed."""
    db = database or Database(settings.database)
    settings.artifact_folder.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop_watching = services.metrics.watch(db.engine)
        reader = asyncio.create_task(services.feed.run())
        looking_after = (take_back(services), trim_events(services), services.keyring.keep_noting())
        upkeep = [asyncio.create_task(each) for each in looking_after]
        try:
            yield
        finally:
            services.feed.close()
            await reader
            for each in upkeep:
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
            stop_watching()
            if database is None:
                db.dispose()

    services = Services(
        settings=settings,
        database=db,
        artifacts=ArtifactStore(settings.artifact_folder),
        feed=Feed(db, settings.poll_s),
        metrics=Metrics(),
        queue=Queue(settings, db),
        keyring=Keyring(db, settings.rate),
    )
    app = FastAPI(
        title="Frontier",
        version=version("frontier-nas"),
        description=DESCRIPTION,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        # The pages that FastAPI brings load scripts from the internet; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.database = db
    app.state.settings = settings
    app.state.keyring = services.keyring
    api.install(app, services)
    app.include_router(dashboard)
    return app


def serve(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serves until SIGINT or SIGTERM. ``listener`` is a bound socket to use instead of binding one."""
    app = create_app(settings)
    with listener or bind(settings, lambda: _guarded(app.state.database)) as bound:
        server = server_of(app)
        collect_rarely()
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(run_server(server, app, bound))


def _guarded(database: Database) -> bool:
    with database.read() as session:
        return keys.guarded(session)


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server for the application. Logging is left as this process has it."""
    config = uvicorn.Config(
        app,
        http="h11",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


async def run_server(server: uvicorn.Server, app: FastAPI, listener: socket.socket) -> None:
    """Serves until the server is asked to exit, then ends streams and long-polls first."""

    async def close_streams() -> None:
        # uvicorn waits for open connections before it ends the lifespan, and streams would never end by themselves.
        while not server.should_exit:
            await asyncio.sleep(0.05)
        app.state.services.feed.close()

    watching = asyncio.create_task(close_streams())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
