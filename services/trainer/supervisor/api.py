"""The trainer's read-only HTTP API: metrics, health, its state, and how the model sees a row."""

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
    """Return the app with the routes /api/status and /api/example/{lineage}/{dataset}/{row}."""
    app = http.make_app(
        settings, {"bus": trainer.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    @app.get("/api/status")
    async def status() -> Observed:
        """Return the current content of `ctl.observed.trainer.<lease id>`."""
        return view_of(trainer)

    @app.get("/api/example/{lineage}/{dataset}/{row}", response_model_exclude_unset=True)
    async def example(lineage: str, dataset: Hash, row: RowNumber) -> RowShown:
        """Return the tokens of a row (from 1), and which of them are trained."""
        return await example_shown(trainer, lineage, dataset, row)

    return app
