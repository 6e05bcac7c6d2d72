"""How a service lives: connect, serve HTTP, run its loops, end cleanly on SIGTERM or SIGINT."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from prometheus_client import Counter, Gauge

from shared import log
from shared.errors import BusFull, BusUnavailable, DuramenError, StoreUnavailable

ERRORS = Counter("duramen_errors_total", "Conditions met, by class.", ["condition"])
UP = Gauge("duramen_loop_last_success_seconds", "Unix time of a loop's last success.", ["loop"])


def instance(service: str) -> str:
    """Who writes: service@host#pid, unique among those alive."""
    return f"{service}@{socket.gethostname()}#{os.getpid()}"


async def run(*loops: Coroutine[Any, Any, None]) -> None:
    """Run loops until one fails or a signal asks to end; then cancel all and wait for them."""
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(coroutine) for coroutine in loops]
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
    for task in [*tasks, waiter]:
        task.cancel()
    results = await asyncio.gather(*tasks, waiter, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def repeat(
    name: str, once: Callable[[], Awaitable[None]], wake: asyncio.Event, seconds: float
) -> None:
    """Do `once` at each wake-up, and at least every so many seconds; outages are waited out.

    Raises whatever is no outage: a service in an unknown state ends and is started again.
    """
    logger = log.get().bind(loop=name)
    while True:
        wake.clear()
        try:
            await once()
            UP.labels(name).set_to_current_time()
        except (BusUnavailable, BusFull, StoreUnavailable) as error:
            ERRORS.labels(type(error).__name__).inc()
            logger.warning("outage", error=str(error))
        except DuramenError as error:
            ERRORS.labels(type(error).__name__).inc()
            logger.error("failed", error=str(error))
            raise
        with suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), seconds)
