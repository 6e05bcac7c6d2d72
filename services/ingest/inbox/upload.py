"""Uploads: POST /datasets streams a file to disk; it is then taken like a dropped file.

POST /datasets/preview, or `dry_run=true`, says what would become of it, and keeps nothing.
"""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse

from services.ingest.container.names import container_of, other_type
from services.ingest.inbox.folders import UPLOADS
from services.ingest.inbox.inbox import TakenFrom
from services.ingest.intake import Intake
from services.ingest.outcome import job_settings
from services.ingest.outcome.job_settings import SettingsRefused
from shared.answers.ingest import Preview, UploadFailed, Working
from shared.errors import UsageError
from shared.files import is_disk_full
from shared.formats.report import Kind, Report
from shared.protocol.names import DEFAULT_LINEAGE, Level, LineageName

LONGEST_WAIT_SECONDS = 300.0
MOST_SIDECAR = 10_000  # characters: it travels in the address
UPLOAD_LOOK_SECONDS = 0.1
RESERVE_BYTES = 256 << 20  # left free on the disk, for what else must be written
SYNC_BYTES = 64 << 20
FULL = "The disk of ingest is full. Free some space, then try again."
ALMOST_FULL = "The disk of ingest is almost full. Free some space, then try again."

FileName = Annotated[str, Query(min_length=1, max_length=200)]
Sidecar = Annotated[str | None, Query(max_length=MOST_SIDECAR)]
SetValues = Annotated[list[str] | None, Query(alias="set")]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)]
OTHER_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": Working},
    404: {"model": UploadFailed},
    413: {"model": UploadFailed},
    422: {"model": Report},
}


class TooLarge(Exception):
    """An upload is larger than allowed, or than fits. `status` is for HTTP."""

    def __init__(self, message: str, status: int = 413) -> None:
        self.status = status
        super().__init__(message)


def add_upload_route(app: FastAPI, intake: Intake) -> None:
    """Add the route for uploads to the app."""

    @app.post("/datasets", response_model=Report | Preview, responses=OTHER_ANSWERS)
    async def upload(
        request: Request,
        *,
        name: FileName,
        level: Level = "normal",
        lineage: LineageName = DEFAULT_LINEAGE,
        kind: Kind = "train",
        again: bool = False,
        dry_run: bool = False,
        sidecar: Sidecar = None,
        settings: SetValues = None,
        wait: Wait = 60.0,
    ) -> JSONResponse:
        """Receive a file as the body; answer with its report, or 202 if that takes longer.

        `sidecar` is the text of one; what is `set` takes precedence.
        """
        values = upload_settings(name, settings or [], again=again)
        origin = TakenFrom(uuid.uuid4().hex, name, level, lineage, kind, None, values, sidecar)
        if dry_run:
            return await previewed(request, intake, origin)
        path = intake.inbox.root / UPLOADS / origin.id
        limit = intake.settings.max_upload_bytes
        try:
            await receive(request.stream(), path, limit, request.headers.get("content-length"))
            await asyncio.to_thread(intake.inbox.receive, origin, path)
        except TooLarge as error:
            return JSONResponse({"error": str(error), "kind": "TooLarge"}, error.status)
        finally:
            path.unlink(missing_ok=True)
        intake.wake.set()
        return await upload_answer(intake, origin.id, wait)


def add_outcome_routes(app: FastAPI, intake: Intake) -> None:
    """Add the routes that tell what would become of a file, and what became of one."""

    @app.post("/datasets/preview", response_model=Preview, responses=OTHER_ANSWERS)
    async def preview(
        request: Request,
        *,
        name: FileName,
        level: Level = "normal",
        lineage: LineageName = DEFAULT_LINEAGE,
        again: bool = False,
        sidecar: Sidecar = None,
        settings: SetValues = None,
    ) -> JSONResponse:
        """Receive a file as an upload does, and answer what would become of it.

        The status is 422 if it would be refused.
        """
        values = upload_settings(name, settings or [], again=again)
        origin = TakenFrom(uuid.uuid4().hex, name, level, lineage, "train", None, values, sidecar)
        return await previewed(request, intake, origin)

    @app.get("/datasets/{taken}", response_model=Report, responses=OTHER_ANSWERS)
    async def dataset(
        taken: Annotated[str, InPath(pattern="^[0-9a-f]{32}$")], wait: Wait = 0.0
    ) -> JSONResponse:
        """Return the outcome of an upload; 202 while it is being worked on."""
        return await upload_answer(intake, taken, wait)


async def previewed(request: Request, intake: Intake, origin: TakenFrom) -> JSONResponse:
    """Return what would become of the file in the body of a request."""
    limit, length = intake.settings.max_upload_bytes, request.headers.get("content-length")
    try:
        async with intake.previews.place_for(origin) as taken:
            await receive(request.stream(), taken.path, limit, length)
            # Reading it makes a copy, and writes its rows.
            check_size(taken.path.stat().st_size, taken.path, limit, copies=2)
            found = await intake.previews.preview(taken)
    except TooLarge as error:
        return JSONResponse({"error": str(error), "kind": "TooLarge"}, error.status)
    except OSError as error:
        if not is_disk_full(error):
            raise
        return JSONResponse({"error": FULL, "kind": "TooLarge"}, 507)
    return answered(found)


def answered(found: Preview) -> JSONResponse:
    """Return a preview as an answer, whose status says whether the file would be refused."""
    refused = found.report.outcome == "refused"
    return JSONResponse(found.model_dump(mode="json", exclude_none=True), 422 if refused else 200)


def upload_settings(name: str, settings: list[str], *, again: bool) -> dict[str, str]:
    """Return the settings of an upload. Raises UsageError before a byte of it is read."""
    if "/" in name or "\0" in name or container_of(name) is None:
        raise UsageError(f"{name[:80]!r} is not a supported file type. {other_type(name)}")
    values = {"again": "true"} if again else {}
    for each in settings:
        key, sign, value = each.partition("=")
        if not sign or key in values:
            raise UsageError(
                f"{each[:80]!r} is not of the form NAME=VALUE, or NAME is given twice."
            )
        values[key] = value
    try:
        job_settings.read_settings(values)
    except SettingsRefused as error:
        raise UsageError(str(error)) from error
    return values


async def receive(stream: AsyncIterator[bytes], path: Path, limit: int, length: str | None) -> None:
    """Write a body to disk and sync it. Raises TooLarge."""
    check_size(int(length) if length and length.isdigit() else 0, path, limit)
    size = unsynced = 0
    try:
        with path.open("wb") as file:
            async for piece in stream:
                size, unsynced = size + len(piece), unsynced + len(piece)
                if unsynced > SYNC_BYTES:
                    check_size(size, path, limit)
                    await asyncio.to_thread(os.fdatasync, file.fileno())
                    unsynced = 0
                file.write(piece)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    except OSError as error:
        if is_disk_full(error):
            raise TooLarge(FULL, 507) from error
        raise
    if size > limit:
        raise too_large(limit)


def check_size(size: int, path: Path, limit: int, copies: int = 0) -> None:
    """Raise TooLarge for more bytes than allowed, or if more `copies` of them do not fit."""
    if size > limit:
        raise too_large(limit)
    if shutil.disk_usage(path.parent).free < RESERVE_BYTES + copies * size:
        raise TooLarge(ALMOST_FULL, 507)


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The file is too large to upload: the limit is {limit} bytes (DURAMEN_MAX_UPLOAD_BYTES). "
        "Copy it into the inbox instead."
    )


async def upload_answer(intake: Intake, taken: str, seconds: float) -> JSONResponse:
    """Return the report of a file by its id of taking.

    The status is 200, 422 if it was refused, 202 if there is no report yet, 404 if the id is
    unknown.
    """
    end = time.monotonic() + seconds
    while True:
        report = intake.finisher.ended.get(taken)
        if report is None and not (intake.inbox.root / ".taken" / taken).exists():
            report = await asyncio.to_thread(intake.inbox.report_of, taken)
            if report is None:
                return JSONResponse({"error": f"There is no upload with the number {taken}."}, 404)
        if report is not None:
            return JSONResponse(shown_report(report), 422 if report.outcome == "refused" else 200)
        if time.monotonic() >= end:
            held = intake.held.get(taken)
            why = (held.why if held else None) or intake.outage
            return JSONResponse(Working(taken=taken, why=why).model_dump(), 202)
        await asyncio.sleep(UPLOAD_LOOK_SECONDS)


def shown_report(report: Report) -> dict[str, Any]:
    return report.model_dump(mode="json", exclude_none=True)
