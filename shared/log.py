"""Structured logs: one canonical line a handled message; JSON when standard error is no terminal.

Never training text, never a secret.
"""

import logging
import sys

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(service: str, level: str = "info") -> Logger:
    """Set up logging for this process and return its logger."""
    terminal = sys.stderr.isatty()
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: Logger = structlog.get_logger(service=service)
    return logger


def get() -> Logger:
    """The logger of a module; bound to the service once `configure` ran."""
    logger: Logger = structlog.get_logger()
    return logger
