"""The start of a service: it reads its settings, and refuses those that nothing reads."""

import os
from typing import TypeVar

from shared import log, setting_names
from shared.errors import UnknownSettings
from shared.settings import Settings

S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S]) -> S:
    """Return the settings of a service, with logging configured, and log them.

    Exits with a message if the environment has DURAMEN_ names that nothing reads. Raises
    pydantic.ValidationError for a setting that is missing or wrong.
    """
    try:
        warning = setting_names.refuse_unknown(os.environ)
    except UnknownSettings as error:
        raise SystemExit(f"{kind.service}: {error}") from error
    loaded = kind.load()
    logger = log.configure(kind.service, loaded.log_level)
    if warning:
        logger.warning("settings without effect", detail=warning)
    logger.info("starting", **loaded.masked())
    return loaded
