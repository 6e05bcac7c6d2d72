"""A wrong clock is called a wrong clock, and a look that hangs ends by its deadline."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.ctl.commands.doctor import result_by
from shared.errors import StoreUnavailable
from shared.look import Look
from shared.store.s3 import KNOCK_SECONDS, Store

REFUSAL = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code>
<Message>too large</Message><Resource>/duramen</Resource><RequestId>1</RequestId></Error>"""


class Skewed(BaseHTTPRequestHandler):
    """A store whose clock is 20 minutes ahead, and which refuses requests for that."""

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(REFUSAL)

    def answer(self, body: bytes) -> None:
        self.send_response_only(403)
        self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(minutes=20)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        pass


@pytest.fixture
def skewed() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Skewed) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_clocks_that_differ_are_named_as_such(skewed: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Store("backup", skewed, "a", "b" * 8, patient=False).ping()
    assert "clock" in str(caught.value)
    assert "20 min behind the store's" in str(caught.value)
    assert "timedatectl" in str(caught.value)


def test_a_store_that_hangs_is_waited_for_once_and_not_for_each_object() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        store = Store("store", url, "a", "b" * 8, patient=False)
        begun = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                store.ping()
        assert time.monotonic() - begun < 10 * KNOCK_SECONDS


def test_a_look_that_hangs_is_named_when_its_time_is_over() -> None:
    release = threading.Event()
    threads = ThreadPoolExecutor(1)
    hangs = threads.submit(lambda: [Look("store", release.wait(30), "")])
    begun = time.monotonic()
    (found,) = result_by(begun + 0.1, "store", hangs)
    release.set()
    threads.shutdown()
    assert (found.what, found.ok) == ("store", False)
    assert "hangs" in found.found
    assert time.monotonic() - begun < 20
