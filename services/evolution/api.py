"""The HTTP side of evolution: what was learned, and what the model answered on the way."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response

from services.evolution.api_answers import Answer
from services.evolution.compare import comparison
from services.evolution.curves import curves
from services.evolution.forgetting import forgetting_of
from services.evolution.matrix import matrix as matrix_of
from services.evolution.matrix import probe_columns
from services.evolution.settings import EvolutionSettings
from services.evolution.summary import summarise
from services.evolution.watch import SnapshotWatch
from shared.answers import Reply
from shared.answers.evolution import (
    Comparison,
    Curves,
    Datasets,
    ExampleHistory,
    Forgetting,
    ProbeColumns,
    SnapshotShown,
    Summary,
)
from shared.service import http
from shared.store.s3 import Store

ROUTES = "/api/evolution"
NOT_MODIFIED = 304
BINARY = {"schema": {"type": "string", "format": "binary"}}
MATRIX: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": BINARY}, "description": "The bytes."}
}
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

    route = routes(app)

    @route("/datasets")
    async def datasets() -> Datasets:
        return await told(Datasets, (await watch.answers()).datasets)

    @route("/snapshots/{dataset}")
    async def snapshots(dataset: str, lineage: str | None = None, run: int | None = None) -> Curves:
        return await told(Curves, curves, await watch.answers(), dataset, lineage, run)

    @route("/snapshot/{dataset}/{step}")
    async def snapshot(dataset: str, step: int, lineage: str | None = None) -> SnapshotShown:
        return await told(SnapshotShown, (await watch.answers()).snapshot, dataset, step, lineage)

    @route("/example/{probe}")
    async def example(probe: str, lineage: str | None = None) -> ExampleHistory:
        return await told(ExampleHistory, (await watch.answers()).example, probe, lineage)

    @route("/summary/{dataset}")
    async def summary(dataset: str, lineage: str | None = None, run: int | None = None) -> Summary:
        return await told(Summary, summarise, await watch.answers(), dataset, lineage, run)

    @route("/compare")
    async def compare(a: str, b: str) -> Comparison:
        """Compare `a` with `b`: each `JOB`, `JOB@STEP`, `JOB@first`, `v003` or `LINEAGE/v003`."""
        return await told(Comparison, comparison, await watch.answers(), a, b)

    add_many(app, watch)
    return app


def routes(app: FastAPI) -> Callable[[str], Callable[[Route], Route]]:
    return lambda path: app.get(ROUTES + path, response_model_exclude_unset=True)


def add_many(app: FastAPI, watch: SnapshotWatch) -> None:
    """Add the routes that show many examples at once."""
    route = routes(app)

    @app.get(ROUTES + "/matrix/{dataset}", response_class=Response, responses=MATRIX)
    async def matrix(
        request: Request, dataset: str, lineage: str | None = None, since: int = -1
    ) -> Response:
        """Return a byte for each example and step after `since`, one step after the other.

        `X-Steps` names the steps, `X-Rows` the number of examples and the name of their order.
        """
        given = await watch.answers(), dataset, lineage, since
        found = await asyncio.to_thread(matrix_of, *given)
        head = {
            "ETag": found.etag,
            "X-Steps": ",".join(map(str, found.steps)),
            "X-Rows": f"{found.rows} {found.rows_name}",
        }
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=NOT_MODIFIED, headers=head)
        return Response(found.data, media_type="application/octet-stream", headers=head)

    @route("/probes/{dataset}")
    async def probes(
        dataset: str, lineage: str | None = None, fields: str | None = None
    ) -> ProbeColumns:
        wanted = fields.split(",") if fields else []
        given = await watch.answers(), dataset, lineage, wanted
        return await told(ProbeColumns, probe_columns, *given)

    @route("/forgetting")
    async def forgetting(lineage: str | None = None) -> Forgetting:
        return await told(Forgetting, forgetting_of, await watch.answers(), lineage)


async def told(model: type[T], ask: Callable[..., Answer], *given: object) -> T:
    """Return what `ask` answers, as a model, without delaying other requests."""
    return await asyncio.to_thread(lambda: model.model_validate(ask(*given)))
