"""The HTTP side of evolution: what was learned, and what the model answered on the way."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI

from services.evolution.api_answers import Answer
from services.evolution.compare import comparison
from services.evolution.settings import EvolutionSettings
from services.evolution.watch import SnapshotWatch
from shared.answers import Reply
from shared.answers.evolution import (
    Comparison,
    Curves,
    Datasets,
    ExampleHistory,
    SnapshotShown,
    Summary,
)
from shared.service import http
from shared.store.s3 import Store

T = TypeVar("T", bound=Reply)
Route = TypeVar("Route", bound=Callable[..., Any])


def make(settings: EvolutionSettings, watch: SnapshotWatch, store: Store) -> FastAPI:
    """Return the app with its routes under /api/evolution.

    A dataset or a probe is named by any unique prefix of its id; `lineage` and `run` choose among
    several trainings on one dataset.
    """
    app = http.make_app(
        settings, {"bus": watch.bus.ping, "store": lambda: asyncio.to_thread(store.ping)}
    )

    def route(path: str) -> Callable[[Route], Route]:
        return app.get("/api/evolution" + path, response_model_exclude_unset=True)

    @route("/datasets")
    async def datasets() -> Datasets:
        return await told(Datasets, (await watch.answers()).datasets)

    @route("/snapshots/{dataset}")
    async def snapshots(dataset: str, lineage: str | None = None, run: int | None = None) -> Curves:
        return await told(Curves, (await watch.answers()).snapshots, dataset, lineage, run)

    @route("/snapshot/{dataset}/{step}")
    async def snapshot(dataset: str, step: int, lineage: str | None = None) -> SnapshotShown:
        return await told(SnapshotShown, (await watch.answers()).snapshot, dataset, step, lineage)

    @route("/example/{probe}")
    async def example(probe: str, lineage: str | None = None) -> ExampleHistory:
        return await told(ExampleHistory, (await watch.answers()).example, probe, lineage)

    @route("/summary/{dataset}")
    async def summary(dataset: str, lineage: str | None = None, run: int | None = None) -> Summary:
        return await told(Summary, (await watch.answers()).summary, dataset, lineage, run)

    @route("/compare")
    async def compare(a: str, b: str) -> Comparison:
        """Compare `a` with `b`: each `JOB`, `JOB@STEP`, `JOB@first`, `v003` or `LINEAGE/v003`."""
        return await told(Comparison, comparison, await watch.answers(), a, b)

    return app


async def told(model: type[T], ask: Callable[..., Answer], *given: object) -> T:
    """Return what `ask` answers, as a model, without delaying other requests."""
    return await asyncio.to_thread(lambda: model.model_validate(ask(*given)))
