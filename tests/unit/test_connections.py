"""Whoever opens connections and says nothing, or little, shuts nobody out."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request

from services.trainer.supervisor.trainer import Trainer
from shared.service import connections, http
from shared.settings import Settings

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[str]:
    """Serve an app of ours; yield its address."""
    app: FastAPI = http.make_app(settings, {})

    @app.post("/taken")
    async def taken(request: Request) -> int:
        return len(await request.body())

    serving = asyncio.create_task(http.serve(app, settings))
    url = f"http://127.0.0.1:{settings.http_port}"
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"{url}/metrics")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
    try:
        yield url
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def opened(
    settings: Settings, said: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", settings.http_port)
    writer.write(said)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what the other side still said before it closed, within a minute."""
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return b""


async def test_half_requests_by_the_thousand_shut_nobody_out(trainer: Trainer) -> None:
    settings = trainer.settings
    count = min(1500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 400)
    async with served(settings) as url:
        half = [await opened(settings, HALF) for _ in range(count)]
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(3):
                answer = await client.get(f"{url}/metrics", timeout=30)
                assert answer.status_code == 200
                assert answer.headers["x-content-type-options"] == "nosniff"
        first = half[: count - connections.MOST_CONNECTIONS]
        assert await asyncio.gather(*(ended(reader) for reader, _ in first)) == [b""] * len(first)
        for _, writer in half:
            writer.transport.abort()


async def test_a_header_and_a_body_that_do_not_come_are_not_waited_for(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "DEADLINE_LOOK_SECONDS"):
        monkeypatch.setattr(connections, name, 0.1)
    settings = trainer.settings
    token = settings.http_token.get_secret_value()
    head = f"POST /taken HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    async with served(settings) as url:
        for said in (b"", HALF, HALF + b"\r\nG", head.encode() + b"Content-Length: 9\r\n\r\nab"):
            reader, writer = await opened(settings, said)
            heard = await ended(reader)
            assert heard == b"" or heard.startswith(b"HTTP/1.1 200 OK")
            writer.close()
        async with httpx.AsyncClient(trust_env=False) as client:  # a whole one is
            sent = await client.post(
                f"{url}/taken", content=b"x" * 100_000, headers={"Authorization": f"Bearer {token}"}
            )
            assert sent.json() == 100_000


async def test_a_body_that_comes_slowly_is_waited_for(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "DEADLINE_LOOK_SECONDS"):
        monkeypatch.setattr(connections, name, 0.1)
    monkeypatch.setattr(connections, "BODY_BYTES_A_SECOND", 1)
    token = trainer.settings.http_token.get_secret_value()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"x" * 1000
            await asyncio.sleep(0.1)

    async with served(trainer.settings) as url, httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {token}"}
        sent = await client.post(f"{url}/taken", content=pieces(), headers=headers)
        assert sent.json() == 6000
