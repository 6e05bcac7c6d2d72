"""The trainer's HTTP side: metrics, health, what it is doing, what a row is to it (read-only)."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Path

from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.observe import view_of
from services.trainer.supervisor.show_example import example_shown
from services.trainer.supervisor.trainer import Trainer
from shared.answers.trainer import RowShown
from shared.protocol.observed import Observed
from shared.service import http
from shared.store.s3 import Store

# It becomes part of a file's name.
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
RowNumber = Annotated[int, Path(ge=1)]


def make(settings: TrainerSettings, trainer: Trainer, store: Store) -> FastAPI:
    """Routes: /api/status, /api/example/{lineage}/{dataset}/{row}."""
    app = http.make_app(
        settings, {"bus": trainer.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    @app.get("/api/status")
    async def status() -> Observed:
        """What `ctl.observed.trainer.<lease id>` says, as of now."""
        return view_of(trainer)

    @app.get("/api/example/{lineage}/{dataset}/{row}", response_model_exclude_unset=True)
    async def example(lineage: str, dataset: Hash, row: RowNumber) -> RowShown:
        """The tokens of a row (from 1) and which of them are trained."""
        return await example_shown(trainer, lineage, dataset, row)

    return app
