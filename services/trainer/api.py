"""The trainer's HTTP side: metrics, health, and what it is doing (read-only)."""

import asyncio
from typing import Any

from fastapi import FastAPI

from services.trainer.show import view_of
from services.trainer.state import Trainer
from shared import http
from shared.settings import TrainerSettings
from shared.store import Store


def make(settings: TrainerSettings, trainer: Trainer, store: Store) -> FastAPI:
    """Routes: /api/status."""
    app = http.make_app(
        settings, {"bus": trainer.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        """What `ctl.observed.trainer` says, as of now."""
        return view_of(trainer).model_dump(mode="json")

    return app
