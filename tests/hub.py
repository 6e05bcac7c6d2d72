"""A small server that speaks as much of the hub's API as a data set needs: info, resolve, files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

from shared.files import sha256_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The data sets of a hub: name -> files, its card, and how it is refused (a status)."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # that it claims, by path
    asked: list[str] = field(default_factory=list)

    def info(self, name: str) -> dict[str, Any]:
        siblings = [
            {"rfilename": path, "size": self.sizes.get(path, len(data))}
            for path, data in self.files[name].items()
        ]
        card = self.cards.get(name, {})
        facts = {"private": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        return {"id": name, "sha": COMMIT, "cardData": card, "siblings": siblings, **facts}


class Answers(BaseHTTPRequestHandler):
    """The answers to requests; `hub` says what to answer."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        kind, _, rest = path.removeprefix("/api").lstrip("/").partition("/")
        name = "/".join(rest.split("/")[:2])
        if kind == "blob":
            name, _, file = rest.partition("/-/")
            self.answer(200, self.hub.files[name][file])
        elif name in self.hub.refused:
            status, code = self.hub.refused[name]
            self.answer(status, b'{"error": "no"}', {"X-Error-Code": code})
        elif name not in self.hub.files:
            self.answer(404, b'{"error": "no"}', {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/"):
            self.answer(200, json.dumps(self.hub.info(name)).encode())
        else:
            self.resolve(name, rest.partition(f"/resolve/{COMMIT}/")[2])

    def resolve(self, name: str, file: str) -> None:
        """Send to another address, as the hub does for all that is large."""
        data = self.hub.files[name][file]
        facts = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256_bytes(data)}"'}
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        where = {"Location": f"{elsewhere}/blob/{name}/-/{file}", "X-Repo-Commit": COMMIT}
        self.answer(302, b"", {**facts, **where})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def hub_at_work() -> Iterator[Hub]:
    """Serve a hub on this host."""
    hub = Hub()
    answers = type("Answers", (Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
