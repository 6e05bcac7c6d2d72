"""Structured logs: one canonical line for each handled message.

The lines are JSON unless standard error is a terminal. They never contain training text or a
secret.
"""

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from shared.foreign_text import PlainStream, plain, plain_stream

if TYPE_CHECKING:  # loaded when something is logged: a command of a moment seldom does
    from collections.abc import Callable, MutableMapping

    import structlog

_when_needed: "Callable[[], object] | None" = None


def configure_when_needed(service: str, level: str) -> None:
    """Set up logging as `configure` does, but only when something is logged."""
    global _when_needed  # noqa: PLW0603 - logging is set up once for a process
    _when_needed = partial(configure, service, level)


def configure(service: str, level: str = "info") -> "structlog.stdlib.BoundLogger":
    """Set up logging for this process and return its logger."""
    import structlog

    global _when_needed  # noqa: PLW0603 - see above
    below = sys.stderr.stream if isinstance(sys.stderr, PlainStream) else sys.stderr
    terminal = below.isatty()
    # Tracebacks, warnings and libraries may tell strangers' text; only our renderer has colours.
    sys.stderr = plain_stream(below)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        plain_values,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file=below),
        cache_logger_on_first_use=True,
    )
    _when_needed = None  # only now: another thread that logs meanwhile must not find it undone
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(service=service)
    return logger


def plain_values(
    _logger: object, _method: str, event: "MutableMapping[str, Any]"
) -> "MutableMapping[str, Any]":
    """Return a log line's fields with their texts made plain."""
    return {
        name: plain(value) if isinstance(value, str) else value for name, value in event.items()
    }


def get() -> "structlog.stdlib.BoundLogger":
    """Return a logger. Logging is set up first if `configure_when_needed` was called."""
    import structlog

    if _when_needed is not None:
        _when_needed()
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
