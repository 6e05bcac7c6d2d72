"""The names of the services.

Uses only the standard library: before `make up` a host has nothing else.
"""

from typing import Literal

Service = Literal["ingest", "trainer", "vault", "evolution", "herald", "ctl"]
# Those that every installation runs; herald runs beside them in containers alone.
SERVICES: tuple[str, ...] = ("ingest", "trainer", "vault", "evolution")
