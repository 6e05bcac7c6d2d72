"""The DURAMEN_* settings of each program of an embedded run: its own secrets and no other's."""

import json
import os
import re
from pathlib import Path

from dotenv import dotenv_values

from infra.env_file import env_lines
from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.programs import ROOT
from infra.ports import HOST
from infra.ports import PREFIX as PORT_PREFIX
from infra.secrets.secrets import SYSTEM_USER, Secrets
from shared.files import write_synced
from shared.service_names import SERVICES
from shared.setting_names import RETIRED, origins

PREFIX = "DURAMEN_"
MOVABLE = ("DURAMEN_ARCHIVE_DIR", "DURAMEN_INBOX_DIR")
OWN_NAMES = re.compile(r"_(URL|URLS|KEY|TOKEN|FILE|DIR|HOST|PORT|INDEX)$|^DURAMEN_TORCH$")


def settings_for(program: str, home: Home, ports: Ports, secrets: Secrets) -> dict[str, str]:
    """Return the settings of `program`: a service, "ctl" (the command line) or "bootstrap"."""
    values = {
        "NATS_URL": f"nats://{HOST}:{ports.nats}",
        "STORE_URL": ports.url("store"),
    }
    if program == "bootstrap":
        values |= _bootstrap(home, ports)
    else:
        values |= _member(program, home, secrets)
    if program in SERVICES:
        values |= {"HTTP_HOST": HOST, "HTTP_PORT": str(getattr(ports, program))}
    if program == "ingest":
        values |= {"INBOX_DIR": str(home.inbox)}
    if program == "vault":
        values |= _keys("BACKUP", secrets, "vault", "backup")
        values |= {"BACKUP_URL": ports.url("backup"), "ARCHIVE_DIR": str(home.archive)}
        values |= {"BACKUP_DISK": str(home.backup), "STORE_DISK": str(home.store)}
        values |= {"BUS_DISK": str(home.nats)}
    if program == "ctl":
        values |= _command_line(home, ports, secrets)
    return {PREFIX + name: value for name, value in values.items()}


def with_user_settings(computed: dict[str, str]) -> dict[str, str]:
    """Return `computed` with the user's own settings and folders."""
    return {**chosen_by_user(), **computed, **moved_by_user(computed)}


def chosen_by_user() -> dict[str, str]:
    """Return what the user may tune (learning rate, epochs, …), and nothing worked out here.

    Addresses and secrets of other programs are never passed on.
    """
    return {
        name: value
        for name, value in user_settings().items()
        if not name.startswith(PORT_PREFIX) and not OWN_NAMES.search(name) and name not in RETIRED
    }


def moved_by_user(computed: dict[str, str]) -> dict[str, str]:
    """Return the folders that the user has put elsewhere, as on another disk."""
    chosen = user_settings()
    return {name: chosen[name] for name in MOVABLE if name in computed and chosen.get(name)}


def origins_of_chosen() -> str:
    """Return where each setting that this installation takes from its user stands."""
    moved = [name for name in MOVABLE if user_settings().get(name)]
    return origins([*chosen_by_user(), *moved], os.environ)


def _member(program: str, home: Home, secrets: Secrets) -> dict[str, str]:
    return {
        "NATS_SEED_FILE": str(secrets.seed_file(program)),
        **_keys("STORE", secrets, program, "store"),
        "STATE_DIR": str(home.state(program)),
        "HTTP_TOKEN": secrets.token(program),
    }


def _command_line(home: Home, ports: Ports, secrets: Secrets) -> dict[str, str]:
    values = {
        **_keys("BACKUP", secrets, "reader", "backup"),
        **_keys("READER", secrets, "reader", "store"),
        "BACKUP_URL": ports.url("backup"),
        "ARCHIVE_DIR": str(home.archive),
        "INBOX_DIR": str(home.inbox),
        "LOGS_DIR": str(home.logs),
        "SUPERVISOR_FILE": str(home.status_file),
        "NATS_MONITOR_SEED_FILE": str(secrets.seed_file(SYSTEM_USER)),
    }
    for service in SERVICES:
        values[f"{service.upper()}_URL"] = ports.url(service)
        values[f"{service.upper()}_TOKEN"] = secrets.token(service)
    return values


def _bootstrap(home: Home, ports: Ports) -> dict[str, str]:
    return {
        "BACKUP_URL": ports.url("backup"),
        "SECRETS_DIR": str(home.secrets),
        "STORE_INNER_URLS": json.dumps(inner_urls(ports, "store")),
        "BACKUP_INNER_URLS": json.dumps(inner_urls(ports, "backup")),
    }


def inner_urls(ports: Ports, server: str) -> list[str]:
    """Return the addresses of the ports of a store that must refuse a stranger."""
    http = [ports.url(f"{server}_{part}") for part in ("master", "filer", "volume")]
    grpc = [
        f"grpc://{HOST}:{getattr(ports, f'{server}_{part}_grpc'.replace('_s3', ''))}"
        for part in ("s3", "master", "volume", "filer")
    ]
    return http + grpc


def _keys(name: str, secrets: Secrets, identity: str, server: str) -> dict[str, str]:
    keys = secrets.keys(identity, server)
    return {f"{name}_ACCESS_KEY": keys.access, f"{name}_SECRET_KEY": keys.secret}


def user_settings() -> dict[str, str]:
    """Return the user's own DURAMEN_* settings.

    They are from the environment, else from .env beside pyproject.toml.
    """
    values = {n: v for n, v in dotenv_values(ROOT / ".env").items() if v is not None}
    values |= os.environ
    return {name: value for name, value in values.items() if name.startswith(PREFIX)}


def process_environment(settings: dict[str, str]) -> dict[str, str]:
    """Return a child's environment: this one's, with exactly these DURAMEN_* settings."""
    values = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX) and n != "HF_TOKEN"}
    return {**values, "PYTHONUNBUFFERED": "1", **settings}


def write_env(path: Path, values: dict[str, str]) -> None:
    """Write a file of NAME=value lines, mode 0600, whole or not at all."""
    write_synced(path, env_lines(values).encode(), 0o600)
