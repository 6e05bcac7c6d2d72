"""The user's secret settings, handed to containers as files.

An environment variable would show in `docker inspect` and in each process' environment. The folder
is closed (0700); the files are 0444, since a container of another user has them mounted. Uses only
the standard library.
"""

import os
import shutil
from pathlib import Path

from infra.compose.host import ROOT, TLS_FILES, Host, HostRefused
from shared.files import write_synced

MODE = 0o444


def hand_over(host: Host) -> None:
    """Write HOME/run/{notify.urls,hub.token}, and nats.tls/ if the user has certificates."""
    run = folder(host, host.home / "run")
    hand(host, run / "notify.urls", host.settings.get("DURAMEN_NOTIFY_URLS", ""))
    hand(host, run / "hub.token", hub_token_of_host(host))
    given = host.settings.get("DURAMEN_NATS_TLS_DIR")
    if host.tls and given:
        for name in TLS_FILES:
            source = ROOT / given / name  # tried by preflight.look_tls
            if not source.is_file():
                raise HostRefused(f"{source} (DURAMEN_NATS_TLS_DIR) is missing")
            hand(host, folder(host, run / "nats.tls") / name, source.read_text())


def hub_token_of_host(host: Host) -> str:
    """Return the user's token for the model hub, or an empty string.

    It is in the file that DURAMEN_HUB_TOKEN_FILE names, else in HF_TOKEN. Raises HostRefused if
    that file is missing.
    """
    named = host.settings.get("DURAMEN_HUB_TOKEN_FILE")
    if not named:
        return host.settings.get("HF_TOKEN", "")
    path = (ROOT / named).absolute()
    if not path.is_file():
        raise HostRefused(f"DURAMEN_HUB_TOKEN_FILE names {path}, which is not there")
    return path.read_text().strip()


def folder(host: Host, path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    own_file(host, path)
    return path


def hand(host: Host, path: Path, text: str) -> None:
    """Write a file for containers; a file that is already right is left alone."""
    if not path.is_file() or path.read_text() != text:
        write_synced(path, text.encode(), MODE, owner=(host.uid, host.gid))


def own_file(host: Host, path: Path) -> None:
    if os.getuid() == 0:
        shutil.chown(path, host.uid, host.gid)
