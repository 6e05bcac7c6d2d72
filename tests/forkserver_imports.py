"""Imports what services and workers import, after what a worker sets before: see `forkserver`."""

import gc
import os
import sys
from importlib import import_module
from pkgutil import iter_modules

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # as the parser has it

PROGRAMS = (
    "services.ingest",
    "services.trainer",
    "services.vault",
    "services.evolution",
    "services.ctl",
    "services.trainer.worker",
    "tests.hurried",
)
# What these import only once they need it.
LATER = (
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "uvicorn.lifespan.off",
    "anyio._backends._asyncio",
    "pydantic.v1",
    "nacl.bindings",
    "httpcore",
    "rich.table",
    "rich.progress",
    "stringprep",
    "_strptime",
    "services.ingest.reading.parser",
    "services.model.template",
    "services.model.network",
    "services.trainer.worker.data.plan",
    "services.trainer.worker.loop",
    "services.trainer.worker.snapshot.snapshot",
)


def imported() -> None:
    """Import what each program does, and what a worker does once its base is not quantised."""
    for program in PROGRAMS:
        name = f"{program}.__main__" if program.startswith("services.") else program
        import_module(name)
        # It runs as `__main__` in each process that is forked.
        if name != "services.trainer.worker.__main__":
            del sys.modules[name]
    sys.modules.pop("services.trainer.worker.__main__").leave_out_quantizer()
    commands = import_module("services.ctl.commands")
    names = [f"{commands.__name__}.{found.name}" for found in iter_modules(commands.__path__)]
    for module in (*LATER, *names):
        import_module(module)
    gc.freeze()


imported()
