"""The models of what services answer over HTTP: services write them, the CLI reads them.

A reader ignores fields that it does not know, because the service may be newer than the reader.
"""

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """An answer of a service, or a part of one."""

    model_config = ConfigDict(frozen=True, defer_build=True)
