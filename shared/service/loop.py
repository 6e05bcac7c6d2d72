"""The life of a service: connect, serve HTTP, run loops, end cleanly on SIGTERM or SIGINT."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from prometheus_client import Counter, Gauge

from shared import log
from shared.errors import BusFull, BusUnavailable, DuramenError, LoopHangs, StoreUnavailable
from shared.progress import Loop, current, loops

ERRORS = Counter("duramen_errors_total", "Conditions met, by class.", ["condition"])
UP = Gauge("duramen_loop_last_success_seconds", "Unix time of a loop's last success.", ["loop"])
HANG_SECONDS = 900.0
GOODBYE_SECONDS = 27.0  # a trainer's last checkpoint takes less; so does a container's patience


async def check_loops() -> None:
    """Check that all loops move. Raises LoopHangs for a round that is stuck for HANG_SECONDS."""
    now = time.monotonic()
    for loop in loops.values():
        if loop.busy and now - loop.beat > HANG_SECONDS:
            raise LoopHangs(loop.name, now - loop.beat)


def instance(service: str) -> str:
    """Return the name of this process, service@host#pid, unique among those alive."""
    return f"{service}@{socket.gethostname()}#{os.getpid()}"


async def run(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run loops until one fails or a signal asks to end; then cancel all and wait for them."""
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
    pending = {*tasks, waiter}
    while pending:  # a library may lose a cancellation (see `repeat`): it is said again
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=GOODBYE_SECONDS)
    for result in await asyncio.gather(*tasks, waiter, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def repeat(
    name: str, once: Callable[[], Awaitable[None]], wake: asyncio.Event, seconds: float
) -> None:
    """Call `once` at each wake-up, and at least every `seconds`. Outages are waited out.

    Raises everything that is not an outage: a service in an unknown state ends and is started
    again.
    """
    logger = log.get().bind(loop=name)
    loop = loops[name] = Loop(name)
    current.set(loop)
    while True:
        wake.clear()
        loop.busy, loop.beat = True, time.monotonic()
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
        loop.busy = False
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()


async def heartbeat(observe: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Call `observe` every `seconds`, whatever else the service does."""
    while True:
        try:
            await observe()
        except BusUnavailable as error:
            log.get().warning("outage", error=str(error))
        await asyncio.sleep(seconds)
