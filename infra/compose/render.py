"""The files that containers are started with: `python -m infra.compose.render DIR SEEN_AS`.

Runs in the bootstrap image, as the owner of DIR (data/compose), with the ports in DURAMEN_PORT_*:

    DIR/secrets/…          generated if missing, never overwritten (infra/secrets/secrets.py)
    DIR/run/nats.conf      public keys and grants
    DIR/run/{store,backup}/{security.toml,s3.json,run.sh}   for SeaweedFS
    DIR/run/nats.tls/      certificate of the bus, unless the user gave one (handed.py)
    DIR/run/tools.env      the command line's settings inside the network
    DIR/env                the command line's settings on the host

Single files are mounted into containers of other users, hence 0444; the folders are closed, 0700.
"""

import os
import secrets as random
import sys
from pathlib import Path

from infra.compose.host import CHOSEN
from infra.compose.ports import PUBLISHED
from infra.env_file import env_lines
from infra.secrets.inner import security_toml
from infra.secrets.secrets import IDENTITIES, Secrets, write_secret
from infra.servers.identities import s3_json
from infra.servers.nats.conf import NatsConf
from infra.servers.seaweed import FSYNC, WeedServer
from shared.files import write_synced
from shared.service_names import SERVICES

READABLE = 0o444
CONFIG_DIR = Path("/etc/weed")
PRIVATE = Path("/run/secrets")
TOOLS = (*SERVICES, "herald")


def weed(name: str) -> WeedServer:
    """Return a store in its container: S3 for the network, all else on its own loopback."""
    return WeedServer(
        name=name,
        data_dir=Path("/data"),
        config_dir=CONFIG_DIR,
        s3_config=CONFIG_DIR / "s3.json",
        s3=9000,
        s3_grpc=19000,
        master=9333,
        master_grpc=19333,
        volume=8080,
        volume_grpc=18080,
        filer=8888,
        filer_grpc=18888,
    )


def weed_script(server: WeedServer) -> str:
    """Return a script that starts the server.

    Meanwhile it makes the server sync each write, and then creates /tmp/synced.
    """
    command = " ".join([*server.command(Path("/usr/bin/weed")), "-s3.ip.bind=0.0.0.0"])
    shell = " ".join(server.shell(Path("/usr/bin/weed")))
    return f"""\
rm -f /tmp/synced
until printf '{FSYNC.strip()}\\n' | {shell} 2>/dev/null | grep -Eq '"fsync": *true'; do
  sleep 1
done && touch /tmp/synced &
exec {command}
"""


def render_stores(run: Path, secrets: Secrets) -> None:
    for name in IDENTITIES:
        folder = run / name
        folder.mkdir(exist_ok=True)
        rules = security_toml(secrets.inner(name), seen_as=CONFIG_DIR)
        write_synced(folder / "security.toml", rules.encode(), READABLE)
        write_synced(folder / "s3.json", s3_json(name, secrets).encode(), READABLE)
        write_synced(folder / "run.sh", weed_script(weed(name)).encode(), READABLE)


def render_tls(folder: Path, secrets: Secrets) -> None:
    """Write the generated certificate of the bus, unless the user's own was put there."""
    if os.environ.get("DURAMEN_NATS_TLS_DIR"):
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        write_synced(folder / name, (secrets.bus_tls / name).read_bytes(), READABLE)


def command_line(secrets: Secrets, urls: dict[str, str], seed: Path) -> dict[str, str]:
    """Return the settings of `duramen` with the addresses `urls`.

    These are of nats, store, backup and each service.
    """
    values = {
        "NATS_URL": urls["nats"],
        "NATS_SEED_FILE": str(seed),
        "NATS_MONITOR_SEED_FILE": str(seed.with_name("monitor.seed")),
        "STORE_URL": urls["store"],
        "BACKUP_URL": urls["backup"],
    }
    for prefix, identity, server in (
        ("STORE", "ctl", "store"),
        ("READER", "reader", "store"),
        ("BACKUP", "reader", "backup"),
    ):
        keys = secrets.keys(identity, server)
        values[f"{prefix}_ACCESS_KEY"] = keys.access
        values[f"{prefix}_SECRET_KEY"] = keys.secret
    for service in TOOLS:
        values[f"{service.upper()}_URL"] = urls[service]
        values[f"{service.upper()}_TOKEN"] = secrets.token(service)
    return {f"DURAMEN_{name}": value for name, value in values.items()}


def render_files(home: Path, seen_as: Path) -> None:
    """Fill the folder `home`, which the host sees as `seen_as`."""
    os.umask(0o077)
    secrets = Secrets.ensure(home / "secrets", READABLE)
    password = home / "secrets" / "grafana" / "admin.password"
    if not password.exists():
        write_secret(password, random.token_urlsafe(24), READABLE)
    run = home / "run"
    run.mkdir(exist_ok=True, mode=0o700)
    tls = bool(os.environ.get("DURAMEN_NATS_TLS"))
    if tls:
        render_tls(run / "nats.tls", secrets)
    conf = NatsConf(
        *(Path("/data"), 4222, 8222),
        host="0.0.0.0",  # noqa: S104 - in its container
        tls_dir=Path("/etc/nats/tls") if tls else None,
    )
    write_synced(run / "nats.conf", conf.render(secrets).encode(), READABLE)
    render_stores(run, secrets)
    inside = {name: f"http://{name}:{9000 if name in IDENTITIES else 8080}" for name in PUBLISHED}
    scheme = "tls" if tls else "nats"
    inside["nats"] = f"{scheme}://nats:4222"
    tools = command_line(secrets, inside, PRIVATE / "seed")
    tools |= {
        "DURAMEN_HUB_TOKEN_FILE": str(PRIVATE / "hub_token"),
        "DURAMEN_ARCHIVE_DIR": "/archive",
        "DURAMEN_INBOX_DIR": "/inbox",
        "DURAMEN_ORIGINS": os.environ["DURAMEN_ORIGINS"],
    }
    if tls:
        tools["DURAMEN_NATS_CA"] = str(PRIVATE / "nats_ca")
    write_synced(run / "tools.env", env_lines(tools).encode(), READABLE)
    outside = {name: f"http://127.0.0.1:{port(name)}" for name in PUBLISHED}
    outside["nats"] = f"{scheme}://127.0.0.1:{port('nats')}"
    seen = command_line(secrets, outside, seen_as / "secrets" / "nats" / "ctl.seed")
    if tls:
        seen["DURAMEN_NATS_CA"] = str(seen_as / "run" / "nats.tls" / "ca.pem")
    for name in ("INBOX_DIR", "ARCHIVE_DIR"):
        if os.environ.get(f"DURAMEN_{name}"):
            seen[f"DURAMEN_{name}"] = os.environ[f"DURAMEN_{name}"]
    # So that `duramen doctor` can look at the host as `make up` does.
    handed = ("DURAMEN_CHECKOUT", "DURAMEN_HOME", "COMPOSE_PROJECT_NAME", "DURAMEN_TORCH")
    for name in (*handed, "DURAMEN_ORIGINS"):
        seen[name] = os.environ[name]
    for name in (*CHOSEN, "DURAMEN_BACKUP_DIR"):
        if os.environ.get(name):
            seen[name] = os.environ[name]
    seen |= {f"DURAMEN_PORT_{name.upper()}": str(port(name)) for name in PUBLISHED}
    seen["DURAMEN_STATE_DIR"] = str(seen_as)
    write_synced(home / "env", env_lines(seen).encode(), 0o600)


def port(name: str) -> int:
    return int(os.environ[f"DURAMEN_PORT_{name.upper()}"])


if __name__ == "__main__":
    render_files(Path(sys.argv[1]), Path(sys.argv[2]))
