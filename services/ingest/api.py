"""The HTTP side of ingest: what waits in the inbox and why, what was refused, and uploads."""

import asyncio

from fastapi import FastAPI

from services.ingest.inbox import upload
from services.ingest.intake import Intake
from shared.answers.ingest import InboxShown, TakenFile
from shared.service import http

REFUSED_SHOWN = 50


def make(intake: Intake) -> FastAPI:
    """Routes under /api."""
    checks: dict[str, http.Check] = {
        "bus": intake.bus.ping,
        "store": lambda: asyncio.to_thread(intake.store.ping),
    }
    app = http.make_app(intake.settings, checks)

    @app.get("/api/inbox", response_model_exclude_unset=True)
    async def inbox() -> InboxShown:
        """`waiting`: not taken yet; `taken`: being worked on; `refused`: the newest first."""
        refused = await asyncio.to_thread(intake.inbox.refused_lately, REFUSED_SHOWN)
        taken = [TakenFile(name=held.name, why=held.why) for held in intake.held.values()]
        return InboxShown(
            state=intake.control.state,
            waits_for=intake.reason(),
            waiting=intake.reasons,
            taken=taken,
            refused=refused,
        )

    upload.add_upload_route(app, intake)
    upload.add_outcome_routes(app, intake)
    return app
