"""The trainer's read-only HTTP API: metrics, health, its state, and how the model sees a row."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from pydantic import ValidationError

from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.observe import view_of
from services.trainer.supervisor.on_request.base_trial import base_tried, earlier_trial
from services.trainer.supervisor.on_request.show_example import example_shown, rows_previewed
from services.trainer.supervisor.trainer import Trainer
from shared.answers.trainer import BaseTried, JobLog, RowShown, RowsPreviewed, RowsToPreview
from shared.errors import NotFound, UsageError
from shared.formats.adapter import AdapterShape
from shared.protocol.observed import Observed
from shared.service import http
from shared.store.s3 import Store
from shared.wrong_value import all_wrong

# It becomes part of a file's name.
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
MOST_BODY = 8 << 20  # 2 MiB of rows, as JSON may write them
MOST_LOG = 1 << 20
RowNumber = Annotated[int, Path(ge=1)]


def make(settings: TrainerSettings, trainer: Trainer, store: Store) -> FastAPI:
    """Return the app with the routes /api/status, log, example, base and preview."""
    app = http.make_app(
        settings, {"bus": trainer.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    @app.get("/api/status")
    async def status() -> Observed:
        """Return the current content of `ctl.observed.trainer.<lease id>`."""
        return view_of(trainer)

    @app.get("/api/log")
    async def log(job: Annotated[str, Query(max_length=200)]) -> JobLog:
        """Return the last MiB of the log of the job that is being trained; 404 for another."""
        return JobLog(text=await asyncio.to_thread(log_of, trainer, job))

    @app.get("/api/example/{lineage}/{dataset}/{row}", response_model_exclude_unset=True)
    async def example(lineage: str, dataset: Hash, row: RowNumber) -> RowShown:
        """Return the tokens of a row (from 1), and which of them are trained."""
        return await example_shown(trainer, lineage, dataset, row)

    @app.get("/api/base/{root}", response_model_exclude_unset=True)
    async def base(
        root: Hash, shape: Annotated[str, Query(max_length=4000)] = "{}", earlier: bool = False
    ) -> BaseTried:
        """Return what is found when a base is tried out with an adapter of this shape.

        `earlier`: what was found when it was tried out before; it is not tried out now.
        """
        if earlier:
            return await asyncio.to_thread(earlier_trial, trainer.local, root, adapter_in(shape))
        return await base_tried(trainer, root, adapter_in(shape))

    @app.post("/api/preview/{lineage}")
    async def preview(lineage: str, request: Request) -> RowsPreviewed:
        """Return the rows in the body, as canonical lines, as a job of today would train them."""
        asked = rows_in(await bounded_body(request))
        return await rows_previewed(trainer, lineage, asked)

    return app


def log_of(trainer: Trainer, job: str) -> str:
    """Return the end of the log of a job. Raises NotFound if it is not the one being trained."""
    segment = trainer.held.segment
    if segment is None or segment.job.path != job:
        raise NotFound(f"{job} is not being trained here.")
    try:
        path = trainer.local.segment(segment.job.lineage, segment.id).job_log
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_LOG))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


async def bounded_body(request: Request) -> bytes:
    """Return the body of a request. Raises UsageError if it is longer than `MOST_BODY` bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY:
            raise UsageError(f"The rows are more than {MOST_BODY} bytes together.")
    return bytes(body)


def adapter_in(shape: str) -> AdapterShape:
    """Return the shape of an adapter that a request asks about. Raises UsageError."""
    try:
        return AdapterShape.model_validate_json(shape)
    except ValidationError as error:
        raise UsageError(f"The shape is not valid: {all_wrong(error.errors())}.") from error


def rows_in(body: bytes) -> RowsToPreview:
    """Return the rows that a request asks about. Raises UsageError."""
    try:
        return RowsToPreview.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(f"The request is not valid: {all_wrong(error.errors())}.") from error
