"""A small HTTP server that takes what Grafana or a webhook would, and keeps it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse


class Recorder:
    """`annotations` as Grafana would hold them; `posts` of any other path; `away`: all are 503.
    `bearers`: each Authorization header that came."""

    def __init__(self) -> None:
        self.annotations: list[dict[str, Any]] = []
        self.posts: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.away = False
        self.bearers: set[str] = set()
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        found = urlparse(path)
        if found.path == "/api/annotations" and method == "GET":
            tags = set(parse_qs(found.query).get("tags", []))
            return [each for each in self.annotations if tags <= set(each["tags"])]
        if found.path == "/api/annotations":
            self.annotations.append(body)
            return {"id": len(self.annotations), "message": "Annotation added"}
        if found.path == "/api/v1/alerts":
            return {"status": "success", "data": {"alerts": self.alerts}}
        self.posts.append(body)
        return {}


@contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            recorder.bearers.add(self.headers.get("authorization") or "")
            if recorder.away:
                self.send_response(503)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            data = json.dumps(recorder.answer(self.command, self.path, body)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    recorder.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
