"""What the user set that is secret, handed to containers as files. Standard library alone.

An environment variable would show in `docker inspect` and in each process' environment. The folder
is closed (0700); the files are 0444, since a container of another user has them mounted.
"""

import os
import shutil
from pathlib import Path

from infra.compose.host import ROOT, TLS_FILES, Host, HostRefused

MODE = 0o444


def hand_over(host: Host) -> None:
    """Write HOME/run/{notify.urls,hub.token}, and nats.tls/ if the user has certificates."""
    run = folder(host, host.home / "run")
    write(host, run / "notify.urls", host.settings.get("DURAMEN_NOTIFY_URLS", ""))
    write(host, run / "hub.token", hub_token(host))
    given = host.settings.get("DURAMEN_NATS_TLS_DIR")
    if host.tls and given:
        for name in TLS_FILES:
            source = ROOT / given / name  # tried by preflight.look_tls
            if not source.is_file():
                raise HostRefused(f"{source} (DURAMEN_NATS_TLS_DIR) is missing")
            write(host, folder(host, run / "nats.tls") / name, source.read_text())


def hub_token(host: Host) -> str:
    """Of the model hub: from the file that DURAMEN_HUB_TOKEN_FILE names, else HF_TOKEN; or none."""
    named = host.settings.get("DURAMEN_HUB_TOKEN_FILE")
    if not named:
        return host.settings.get("HF_TOKEN", "")
    path = (ROOT / named).absolute()
    if not path.is_file():
        raise HostRefused(f"DURAMEN_HUB_TOKEN_FILE names {path}, which is not there")
    return path.read_text().strip()


def folder(host: Host, path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    own(host, path)
    return path


def write(host: Host, path: Path, text: str) -> None:
    """Whole or not at all; a file that is right already is left alone."""
    if path.is_file() and path.read_text() == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "w") as file:
        os.fchmod(file.fileno(), MODE)
        file.write(text)
    own(host, temporary)
    temporary.replace(path)


def own(host: Host, path: Path) -> None:
    if os.getuid() == 0:
        shutil.chown(path, host.uid, host.gid)
