"""An embedded run whose services reach one store over a slow line.

    python -m tests.faults.proxy HOME

Works as `infra.local.supervisor`, which it is, with a proxy in this process before the store.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

from infra.local.home import Home
from infra.local.ports import free_ports
from infra.local.supervisor import Supervisor

DELAY_SECONDS = 0.5  # for each piece, in each direction
BYTES = 8 << 10


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass pieces on late until one side ends."""
    try:
        while piece := await reader.read(BYTES):
            await asyncio.sleep(DELAY_SECONDS)
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(port: int, behind: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", behind)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer))

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


class SlowLine(Supervisor):
    """Its services are told the proxy's address where they would be told the store's."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.line = free_ports().store
        line = (self.line, self.ports.store)
        threading.Thread(target=lambda: asyncio.run(serve(*line)), daemon=True).start()

    def _settings(self, program: str) -> dict[str, str]:
        settings = super()._settings(program)
        if program != "bootstrap":
            settings["DURAMEN_STORE_URL"] = f"http://127.0.0.1:{self.line}"
        return settings


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    os.setsid()
    sys.exit(SlowLine(Home(Path(sys.argv[1]))).run())
