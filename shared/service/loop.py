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
from shared.backoff import Backoff
from shared.errors import (
    BusFull,
    BusUnavailable,
    BusWentBack,
    DiskFull,
    DuramenError,
    LoopHangs,
    StoreUnavailable,
)
from shared.files import is_disk_full
from shared.foreign import state_file
from shared.progress import Loop, current, loops
from shared.service.alarms import Alarms

ERRORS = Counter("duramen_errors_total", "Conditions met, by class.", ["condition"])
UP = Gauge("duramen_loop_last_success_seconds", "Unix time of a loop's last success.", ["loop"])
HANG_SECONDS = 900.0
RETRY_AT_MOST_SECONDS = 60.0
ROUND_FAILED = "round_failed"  # an alarm
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
    name: str,
    once: Callable[[], Awaitable[None]],
    wake: asyncio.Event,
    seconds: float,
    alarms: Alarms | None = None,
) -> None:
    """Call `once` at each wake-up, and at least every `seconds`.

    Outages and full disks are waited out.

    Any other failure ends its round alone, because what it met may be anybody's bytes: it is
    logged with where it happened, alarmed, shown, and tried again less and less often. Raises
    BusWentBack: then nothing may be written until a new start has compared the bus again.
    """
    loop = loops[name] = Loop(name)
    current.set(loop)
    delay = Backoff(max(seconds, 0.5), RETRY_AT_MOST_SECONDS)
    while True:
        wake.clear()
        loop.busy, loop.beat = True, time.monotonic()
        failed = await one_round(loop, once, alarms)
        loop.busy = False
        if failed:
            delay.grow()
            await asyncio.sleep(delay.seconds)  # whatever wakes it
            continue
        delay.end()
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()


async def one_round(loop: Loop, once: Callable[[], Awaitable[None]], alarms: Alarms | None) -> bool:
    """Make one round of a loop; return whether it failed. Raises BusWentBack."""
    logger = log.get().bind(loop=loop.name)
    try:
        await once()
        UP.labels(loop.name).set_to_current_time()
        await note_round(loop, None, alarms)
    except (BusUnavailable, BusFull, StoreUnavailable, DiskFull) as error:
        ERRORS.labels(type(error).__name__).inc()
        logger.warning("outage", error=str(error))
    except BusWentBack as error:
        ERRORS.labels(type(error).__name__).inc()
        logger.error("failed", error=str(error))
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):
            ERRORS.labels(DiskFull.__name__).inc()
            logger.warning("disk_full", error=str(error))
            return False
        ERRORS.labels(type(error).__name__).inc()
        logger.exception("round_failed")
        with suppress(BusUnavailable, BusFull):
            await note_round(loop, error, alarms)
        return True
    return False


async def note_round(loop: Loop, error: Exception | None, alarms: Alarms | None) -> None:
    """Note how a loop's round ended; sound its alarm, or end that. Raises BusUnavailable."""
    loop.failed = None if error is None else failure_of(error)
    if alarms is None:
        return
    for what, why in state_file.lost.items():
        await alarms.sound("state_lost", what, why)
    if loop.failed is None:
        alarms.clear(ROUND_FAILED, loop.name)
    else:
        await alarms.sound(ROUND_FAILED, loop.name, loop.failed)


def failure_of(error: Exception) -> str:
    """Return an error as people read it, in characters that every record can hold."""
    name = "" if isinstance(error, DuramenError) else f"{type(error).__name__}: "
    return f"{name}{error}"[:1000].encode("utf-8", "replace").decode()


def failed_rounds() -> str | None:
    """Return which loops of this process failed in their last round, and of what, or None."""
    failed = [
        f"{each.name} failed and is tried again: {each.failed}"
        for each in loops.values()
        if each.failed
    ]
    return "; ".join(failed) or None


async def heartbeat(observe: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Call `observe` every `seconds`, whatever else the service does."""
    logger = log.get()
    while True:
        try:
            await observe()
        except BusUnavailable as error:
            logger.warning("outage", error=str(error))
        except Exception:
            logger.exception("not_observed")
        await asyncio.sleep(seconds)
