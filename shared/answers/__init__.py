"""What services answer over HTTP, as models: the services write them, the CLI reads them.

A reader passes over fields that it does not know: a service may be newer than who asks it.
"""

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """What a service answers, or a part of it."""

    model_config = ConfigDict(frozen=True, defer_build=True)
