"""Questions to the bus' server about itself, which its system account answers.

Its user may ask these and hear the answers, and do nothing else: the server needs no HTTP port.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nats
import nats.errors

from shared.bus.connection import connection_away
from shared.foreign.json_bytes import json_object

MONITOR_USER = "monitor"
Question = Literal["HEALTHZ", "VARZ", "JSZ"]
SERVER_QUESTIONS: tuple[Question, ...] = ("HEALTHZ", "VARZ", "JSZ")
SERVER_ANSWER_SECONDS = 3.0


def subject_of(question: Question) -> str:
    return f"$SYS.REQ.SERVER.PING.{question}"


@dataclass(frozen=True)
class BusServer:
    """The server at `url`, asked with the key in `seed_file`; `ca` as in Bus."""

    url: str
    seed_file: Path
    ca: Path | None = None

    async def ask(self, question: Question, **options: bool) -> dict[str, Any]:
        """Return what the server says about itself. Raises BusUnavailable if it says nothing."""
        tls = {"tls": ssl.create_default_context(cafile=self.ca)} if self.ca else {}
        try:
            async with asyncio.timeout(SERVER_ANSWER_SECONDS):
                connection = await nats.connect(
                    self.url,
                    nkeys_seed=str(self.seed_file),
                    name=MONITOR_USER,
                    inbox_prefix=f"_INBOX_{MONITOR_USER}".encode(),
                    allow_reconnect=False,
                    reconnect_time_wait=0.05,
                    max_reconnect_attempts=1,  # 0 would mean "no limit"
                    error_cb=_unheard,
                    **tls,
                )
                try:
                    body = json.dumps(options).encode()
                    answer = await connection.request(
                        subject_of(question), body, SERVER_ANSWER_SECONDS
                    )
                finally:
                    await connection.close()
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise connection_away(self.url, error) from error
        try:
            data = json_object(answer.data).get("data")
        except ValueError as error:
            raise connection_away(self.url, error) from error
        return data if isinstance(data, dict) else {}

    async def trouble(self) -> str:
        """Return what the server finds wrong with itself or with a stream, or "".

        Raises BusUnavailable.
        """
        health = await self.ask("HEALTHZ")
        if health.get("status") == "ok":
            return ""
        return str(health.get("error") or health.get("status"))


async def _unheard(_: Exception) -> None:
    """Errors are raised where they are waited for."""
