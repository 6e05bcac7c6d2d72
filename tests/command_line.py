"""The evolution service and the command line, run as processes on a test's servers."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared import reach
from tests.forkserver import finished, start
from tests.stack import Stack, wait_until


@dataclass(frozen=True)
class Evolution:
    """A running evolution service."""

    url: str
    token: str

    def get(self, path: str, **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        with reach.http(headers=headers, timeout=20, verify=False) as http:
            return http.get(f"{self.url}{path}", params=query)

    def ask(self, path: str, **query: Any) -> Any:
        reply = self.get(f"/api/evolution/{path}", **query)
        assert reply.status_code == 200, reply.text
        return reply.json()


def without_settings() -> dict[str, str]:
    """This process's environment without any setting of the developer's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DURAMEN_")}


@contextmanager
def evolution_service(stack: Stack, state: Path) -> Iterator[Evolution]:
    """The service as a process of its own, with its cache in `state`; SIGKILL at the end."""
    settings = stack.env("evolution")
    settings |= {"DURAMEN_STATE_DIR": str(state)}
    log = state.parent / "evolution.log"
    process = start(["services.evolution"], {**without_settings(), **settings}, log)
    service = Evolution(stack.ports.url("evolution"), settings["DURAMEN_HTTP_TOKEN"])

    def is_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])
        try:
            return service.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(is_up, 30, "evolution is healthy")
        yield service
    finally:
        process.kill()
        process.wait()


def duramen(
    stack: Stack, *words: str, columns: int = 100, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process, as a user of this stack."""
    given = {f"DURAMEN_{name.upper()}": value for name, value in settings.items()}
    environment = {
        **without_settings(),
        **stack.env("ctl"),
        **given,
        "COLUMNS": str(columns),
    }
    return finished(["services.ctl", *words], environment, 120)
