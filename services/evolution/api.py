"""The HTTP side of evolution: what was learned, and what the model answered on the way."""

import asyncio

from fastapi import FastAPI

from services.evolution.api_answers import Answer
from services.evolution.compare import comparison
from services.evolution.settings import EvolutionSettings
from services.evolution.watch import Watch
from shared.service import http
from shared.store.s3 import Store


def make(settings: EvolutionSettings, watch: Watch, store: Store) -> FastAPI:
    """Routes under /api/evolution. A dataset or a probe is named by any unique prefix of its id;
    `lineage` and `run` choose among several trainings on one dataset."""
    app = http.make_app(
        settings, {"bus": watch.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    @app.get("/api/evolution/datasets")
    async def datasets() -> Answer:
        return await asyncio.to_thread((await watch.answers()).datasets)

    @app.get("/api/evolution/snapshots/{dataset}")
    async def snapshots(dataset: str, lineage: str | None = None, run: int | None = None) -> Answer:
        answers = await watch.answers()
        return await asyncio.to_thread(answers.snapshots, dataset, lineage, run)

    @app.get("/api/evolution/snapshot/{dataset}/{step}")
    async def snapshot(dataset: str, step: int, lineage: str | None = None) -> Answer:
        answers = await watch.answers()
        return await asyncio.to_thread(answers.snapshot, dataset, step, lineage)

    @app.get("/api/evolution/example/{probe}")
    async def example(probe: str, lineage: str | None = None) -> Answer:
        answers = await watch.answers()
        return await asyncio.to_thread(answers.example, probe, lineage)

    @app.get("/api/evolution/summary/{dataset}")
    async def summary(dataset: str, lineage: str | None = None, run: int | None = None) -> Answer:
        answers = await watch.answers()
        return await asyncio.to_thread(answers.summary, dataset, lineage, run)

    @app.get("/api/evolution/compare")
    async def compare(a: str, b: str) -> Answer:
        """`a`, `b`: `JOB`, `JOB@STEP`, `JOB@first` or `v003`; `LINEAGE/v003`, too."""
        answers = await watch.answers()
        return await asyncio.to_thread(comparison, answers, a, b)

    return app
