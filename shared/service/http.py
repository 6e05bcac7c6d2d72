"""The HTTP side that every service has: /metrics, /healthz, and a token for everything else."""

import asyncio
import hmac
import math
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.middleware.trustedhost import TrustedHostMiddleware

from shared.answers.settings import SettingHeld
from shared.errors import DuramenError, NotFound, UsageError
from shared.foreign_text import plain
from shared.program import program_version
from shared.service import loop
from shared.service.connections import BoundedConnection
from shared.service.held_settings import held
from shared.settings import Settings
from shared.wrong_value import all_wrong

BUILD = Gauge("duramen_build_info", "Always 1; which program this is.", ["service", "version"])
FREE = Gauge("duramen_disk_free_bytes", "Free space where a folder lies.", ["folder"])

OPEN_PATHS = {"/metrics", "/healthz"}
HEALTH_SECONDS = 5.0

Check = Callable[[], Awaitable[None]]


def watch_space(name: str, folder: Path) -> None:
    """Measure the free space at `folder` whenever metrics are asked for; NaN if it is not there."""

    def free() -> float:
        try:
            return shutil.disk_usage(folder).free
        except OSError:  # one folder that is gone must not take all other figures with it
            return math.nan

    FREE.labels(name).set_function(free)


def make_app(settings: Settings, checks: dict[str, Check]) -> FastAPI:
    """Return an app whose /healthz runs every check for real and names what fails.

    Each check may take 5 s.
    """
    app = FastAPI(title=f"Duramen {settings.service}", openapi_url="/openapi.json", docs_url=None)
    checks = {**checks, "loops": loop.check_loops}
    BUILD.labels(settings.service, program_version()).set(1)
    watch_space("state", settings.state_dir)
    token = settings.http_token.get_secret_value()
    hosts = ["127.0.0.1", "localhost", settings.service, settings.http_host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)  # no DNS rebinding

    @app.middleware("http")
    async def require_token(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path not in OPEN_PATHS and not hmac.compare_digest(
            given.encode(), token.encode()
        ):
            return JSONResponse(
                {"error": "This request needs a token: Authorization: Bearer …"}, 401
            )
        answer = await call_next(request)
        answer.headers["X-Content-Type-Options"] = "nosniff"  # an error may quote strangers' text
        return answer

    @app.exception_handler(DuramenError)
    async def explain(_: Request, error: DuramenError) -> JSONResponse:
        status = (
            404 if isinstance(error, NotFound) else 400 if isinstance(error, UsageError) else 503
        )
        return JSONResponse({"error": plain(str(error)), "kind": type(error).__name__}, status)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        why = f"The request is not valid: {plain(all_wrong(error.errors()))}."
        return JSONResponse({"error": why, "kind": "UsageError"}, 422)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Make real round trips with a short limit; 503 names what does not answer."""
        failed = {}
        for name, check in checks.items():
            try:
                await asyncio.wait_for(check(), HEALTH_SECONDS)
            except (DuramenError, TimeoutError, OSError) as error:
                failed[name] = str(error) or type(error).__name__
        if failed:
            raise HTTPException(503, failed)
        return dict.fromkeys(checks, "ok")

    add_settings(app, settings)
    return app


def add_settings(app: FastAPI, settings: Settings) -> None:
    @app.get("/api/settings")
    async def settings_held() -> list[SettingHeld]:
        """Return the settings that hold since the start, secrets as a word."""
        return held(settings)


async def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until cancelled. Signals are handled by the service, not by the web server."""
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        http=BoundedConnection,
    )
    server = uvicorn.Server(config)
    try:
        await server._serve()  # serve() would take over SIGTERM and SIGINT
    finally:
        server.should_exit = True
        for listening in getattr(server, "servers", []):  # none where it did not start
            listening.close()
