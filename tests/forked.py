"""What a forked process does in order to be a program that was started by `python -m`."""

import atexit
import gc
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

# Programs that a forked service or worker forks of itself: their imports are there already.
FORKED = {
    "services.trainer.worker",
    "services.trainer.worker.base_trial",
    "services.trainer.worker.example",
    "services.trainer.worker.preparation",
    "services.trainer.worker.sample",
    "services.model.template_sandbox",
}
PARENTS: list[Any] = []  # files that are never closed


class ForkingPopen(subprocess.Popen[Any]):
    """Starts the programs of FORKED without exec, all others as `subprocess` does."""

    def __init__(self, args: Any, **options: Any) -> None:
        words = [args] if isinstance(args, str) else list(args)
        if words[:2] == [sys.executable, "-m"] and words[2] in FORKED:
            environment = options.get("env")
            given = dict(os.environ if environment is None else environment)
            # Called between fork and exec, and never returns.
            options["preexec_fn"] = partial(be, words[2:], given)
        super().__init__(args, **options)


def be(module: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Be `python -m MODULE ARGUMENTS…` with this environment, and end with its exit status."""
    status = 1
    try:
        forget_the_parent()
        os.environ.clear()
        os.environ.update(environment)
        open_standard_files()
        setattr(subprocess, "Popen", ForkingPopen)  # noqa: B010  # a type checker forbids it
        sys.argv = list(module)
        Path("/proc/self/comm").write_text(module[0][-15:], "ascii")
        runpy.run_module(module[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = status_of(ended)
    except BaseException:  # noqa: BLE001  # as the interpreter ends with it
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for file in (sys.stdout, sys.stderr):
            file.flush()
        os._exit(status)


def forget_the_parent() -> None:
    """Leave the parent's open files and signal handlers, as exec would."""
    gc.freeze()  # what is garbage may hold files, whose numbers are soon others'
    atexit._clear()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def open_standard_files() -> None:
    """Open them as the interpreter does; the parent's, which a thread of it may hold, stay."""
    PARENTS.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1, "utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)


def status_of(ended: SystemExit) -> int:
    """Return the exit status; a text goes to standard error."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1
