"""The commands up, down, destroy and those in between. Uses only the standard library."""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.compose import bus_backup, memory, preflight
from infra.compose.engine import Compose, docker
from infra.compose.handed import hand_over
from infra.compose.host import PRECIOUS, ROOT, Host, HostRefused
from infra.compose.images import check_images
from shared.look import Look, looks_to_json
from shared.service_names import SERVICES

IMAGES = ("bootstrap", *SERVICES, "herald", "ctl")
UP = ("up", "--detach", "--wait", "--wait-timeout", "300", "--remove-orphans")
SECRETS_SEEN_AS = "/home/duramen"
COPYING = ".duramen-copying"  # what was copied so far
DAY_SECONDS = 86400
GO_ON = "To let it train again: make ctl ARGS=start"


def compose_for(host: Host) -> Compose:
    """Return Compose with all settings and hashes of an installation.

    It has the host's own settings, too: those of smoke are not in .env, which compose reads.
    """
    own = {name: value for name, value in host.settings.items() if name.startswith("DURAMEN_")}
    domains = len(preflight.failure_domains(host))
    run, infra = host.home / "run", ROOT / "infra"
    hashes = {
        "DURAMEN_RENDERED": hashed(run, "nats.conf", "nats.tls/*", "store/*", "backup/*"),
        "DURAMEN_NOTIFY_RENDERED": hashed(run, "notify.urls"),
        "DURAMEN_SECRETS": hashed(host.home / "secrets", "*/*") + hashed(run, "nats.tls/*"),
        "DURAMEN_WATCHING": hashed(infra, "prometheus/*.yml", "grafana/provisioning/*/*"),
    }
    limits = memory.handed_on(host, preflight.engine_memory())
    return Compose({**own, **host.computed(domains), **limits, **hashes})


def hashed(folder: Path, *patterns: str) -> str:
    """Return a hash of files below a folder, to be used as a label.

    A changed label makes compose replace a container, which a change of mounted files does not.
    """
    total = hashlib.sha256()
    for path in sorted(p for pattern in patterns for p in folder.glob(pattern)):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def print_step(text: str = "") -> None:
    print(text, flush=True)


def doctor(host: Host, words: list[str]) -> int:
    """Show what `up` looks at, the GPU from a container, and what runs.

    Returns exit status 1 if something is not right.
    """
    compose = Compose(host.computed(1))
    looks = preflight.preflight(host, compose)
    ready = all(found.ok is not False for found in looks)
    if ready and host.torch == "cuda":
        looks.append(gpu_inside(host))
    if "--json" in words:
        print_step(looks_to_json(looks))
        return 0 if ready else 1
    for found in looks:
        print_step(found.line())
    if ready and compose.running():
        print_step()
        return ctl(host, ["doctor"])
    return 0 if ready and looks[-1].ok is not False else 1


def gpu_inside(host: Host) -> Look:
    if not docker("image", "ls", "--quiet", host.image("trainer")):
        return Look(
            "gpu inside", None, "not known before `make up` has built the image that checks it"
        )
    return preflight.look("gpu inside", lambda: preflight.look_gpu_in_container(host))


def up(host: Host, words: list[str]) -> int:
    """Run preflight, secrets, images, start; then print addresses. Idempotent."""
    print_step("preflight")
    looks = preflight.preflight(host, Compose(host.computed(1)))
    for found in looks:
        print_step(found.line())
    if any(found.ok is False for found in looks):
        raise HostRefused(
            "the host is not ready: fix what the lines marked NO say, then type make up again"
        )
    preflight.prepare_folders(host)
    compose = compose_for(host)
    refuse_other_images(host, compose)
    if "--no-build" not in words:
        build_images(host, compose)
    if host.torch == "cuda":
        found = gpu_inside(host)
        print_step(found.line())
        if not found.ok:
            raise HostRefused(
                f"the trainer's container cannot use the GPU (see above): {preflight.TOOLKIT}; "
                "or set DURAMEN_TORCH=cpu"
            )
    render_home(host)
    compose = compose_for(host)
    for name in PRECIOUS:
        docker("volume", "create", "--label", "duramen=precious", f"{host.project}_{name}")
    for name in ("backup", "archive"):
        carry_over(host, compose, name)
    begun = time.monotonic()
    log = host.home / "up.log"
    log.unlink(missing_ok=True)
    compose.logged(log, *UP)
    print_step(f"all containers are healthy after {time.monotonic() - begun:.0f} s")
    print_addresses(host)
    return 0


def refuse_other_images(host: Host, compose: Compose) -> None:
    """Say how the images of others compare with the lock. Raises HostRefused if one is another."""
    looks = list(check_images(host, compose))
    for found in looks:
        print_step(found.line())
    if wrong := [found.found for found in looks if found.ok is False]:
        raise HostRefused("; ".join(wrong))


def carry_over(host: Host, compose: Compose, name: str) -> None:
    """Copy a volume, once, into the empty folder that takes its place; the volume stays."""
    # Otherwise the earlier versions would have one copy less.
    folder, volume = host.folder(name), f"{host.project}_{name}"
    container = f"{volume}_carry"
    with suppress(HostRefused):  # one that a lost session has left; mostly there is none
        docker("rm", "--force", container)
    if folder is None:
        return
    found = {path.name for path in folder.iterdir()} - {"lost+found"}
    carried = host.home / f"{name}.carried"
    bound = ("-v", f"{volume}:/from:ro", "-v", f"{folder}:/to", host.image("bootstrap"))
    inside = (*("run", "--rm", "--network", "none", "--user", f"{host.uid}:{host.gid}"), *bound)
    if found - {COPYING} and COPYING not in found:
        return
    if not docker(*inside, "sh", "-c", "ls -A /from | head -1"):
        return
    if carried.exists():
        raise HostRefused(
            f"{folder} is empty, and the {name} was copied to {carried.read_text()} before: is its "
            f"disk mounted? If that copy is lost, delete {carried}, and {volume} is copied again"
        )
    copy = f"rm -rf /to/{COPYING} && mkdir /to/{COPYING} && cp -a /from/. /to/{COPYING}/ && sync"
    move = f"find /to/{COPYING} -mindepth 1 -maxdepth 1 -exec mv -t /to {{}} +"
    # With something beside it the copy is whole, and its move was cut off.
    script = f"{'true' if found - {COPYING} else copy} && {move} && rmdir /to/{COPYING}"
    print_step(f"{name}: copying the volume {volume} to {folder}")
    compose.output("stop", "vault", "backup")
    try:
        docker(
            *inside[:1], "--name", container, *inside[1:], "sh", "-c", script, seconds=DAY_SECONDS
        )
    except HostRefused as error:
        raise HostRefused(
            f"{error}\nThe {name} was not copied; vault and backup are stopped. To start them as "
            f"they were, remove DURAMEN_{name.upper()}_DIR and type: make up"
        ) from error
    carried.write_text(str(folder))
    print_step(f"{name}: copied. Once `make ctl ARGS=check` is green: docker volume rm {volume}")


def build_images(host: Host, compose: Compose) -> None:
    """Build all images, one after the other, because some share a layer."""
    host.home.mkdir(parents=True, exist_ok=True)
    log = host.home / "build.log"
    log.unlink(missing_ok=True)
    for image in IMAGES:
        begun = time.monotonic()
        compose.logged(log, "--profile", "tools", "build", image)
        print_step(f"image {host.image(image)} ({time.monotonic() - begun:.0f} s)")


def render_home(host: Host) -> None:
    """Render secrets and settings, in a container that runs as the owner of `home`."""
    hand_over(host)
    environment = {
        **host.computed(1),
        "DURAMEN_ORIGINS": host.origins,
        "DURAMEN_NATS_TLS": "yes" if host.tls else "",
        "DURAMEN_NATS_TLS_DIR": host.settings.get("DURAMEN_NATS_TLS_DIR", ""),
    }
    passed = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    docker(
        *("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--read-only"),
        *("--user", f"{host.uid}:{host.gid}", "-v", f"{host.home}:{SECRETS_SEEN_AS}"),
        *passed,
        *(host.image("bootstrap"), "python", "-m", "infra.compose.render"),
        *(SECRETS_SEEN_AS, str(host.home)),
    )


def print_addresses(host: Host) -> None:
    """Print where everything is, and the next command."""
    at = {name: f"http://127.0.0.1:{port}" for name, port in host.ports.items()}
    print_step(f"\n  inbox    {host.inbox}")
    if "grafana" not in host.without:
        print_step(
            f"  grafana  {at['grafana']}   user duramen, password in {host.home}/secrets/grafana"
        )
    print_step(f"  store    {at['store']}   backup {at['backup']}")
    print_step(f"  nats     {'tls' if host.tls else 'nats'}://127.0.0.1:{host.ports['nats']}")
    if preflight.look_disks(host)[0] is not True:
        where = preflight.shown_domains(preflight.failure_domains(host))
        print_step(f"  \x1b[31m3 copies, {where}\x1b[0m: set DURAMEN_BACKUP_DIR to another disk")
    print_step("\nNext: a base model, then a file into the inbox.")
    print_step(
        "  make ctl ARGS='base add owner/model'      from the hub (HF_TOKEN in .env if it asks)"
    )
    print_step(f"  make ctl ARGS='base add /models/NAME'     a folder in {host.models}")
    print_step("On the host, after `make install`:")
    print_step(f"  export DURAMEN_ENV_FILE={host.home}/env; .venv/bin/duramen doctor")


def down(host: Host, _words: list[str]) -> int:
    """Stop and remove the containers; every volume stays."""
    return compose_for(host).run("down", "--remove-orphans")


def destroy(host: Host, words: list[str]) -> int:
    """Remove the containers and all volumes, after the project's name was typed."""
    names = [f"{host.project}_{name}" for name in PRECIOUS]
    kept = [f for f in (host.folder("backup"), host.folder("archive")) if f]
    print_step("This deletes every model that was trained here. Volumes:")
    for name in names:
        print_step(f"  {name}")
    for folder in kept:
        print_step(f"  (not deleted: {folder})")
    answer = words[0] if words else input(f"Type {host.project} to delete them: ")
    if answer != host.project:
        raise HostRefused("nothing was deleted")
    compose_for(host).output("down", "--volumes", "--remove-orphans")
    for name in names:
        docker("volume", "rm", "--force", name)
    print_step(f"Secrets and settings are still in {host.home}, the inbox in {host.inbox}.")
    return 0


def back_up_bus(host: Host, _words: list[str]) -> int:
    """Copy the bus (queue, ledgers, audit) to HOME/bus-backups.

    Versions have backups of their own.
    """
    print_step(f"bus: {bus_backup.make_backup(host, compose_for(host))}")
    return 0


def restore(host: Host, words: list[str]) -> int:
    """Restore a version with its base into HOME/restored, or the bus.

    `make restore ARGS=v003` is for a version. `ARGS=bus` is for the bus as `make backup` last kept
    it, `ARGS='bus NAME.tar'` for an earlier backup.
    """
    if not words:
        raise HostRefused(
            "make restore needs to know what to restore: make restore ARGS=v003, or make restore "
            "ARGS=bus"
        )
    if words[0] == "bus":
        restored = bus_backup.restore_bus(host, compose_for(host), words[1] if words[1:] else None)
        print_step(f"the bus is as it was in {restored}")
        return ctl(host, ["check"])
    status = ctl(host, ["restore", words[0], "--to", f"/restored/{words[0]}", *words[1:]])
    if status == 0:
        print_step(f"in {host.home / 'restored' / words[0]}")
    return status


def upgrade(host: Host, words: list[str]) -> int:
    """Upgrade an installation to this checkout.

    Builds, closes the open segment, backs the bus up, starts, lets the trainer do what it did
    before, and checks. The settings and the images come first: if they fail, nothing has been
    stopped.
    """
    known, found = preflight.look_settings(host)
    if known is False:
        raise HostRefused(found)
    if "--no-build" not in words:
        build_images(host, compose_for(host))
    seen = command_json(host, "status")["services"]["trainer"]
    was = seen["state"] if seen else "running"
    if ctl(host, ["stop"]):
        raise HostRefused(f"the trainer has not stopped yet; nothing else was changed. {GO_ON}")
    try:
        back_up_bus(host, [])
        up(host, ["--no-build"])
    except HostRefused as error:
        raise HostRefused(f"{error}\nThe trainer was stopped for this. {GO_ON}") from error
    if was != "stopped" and ctl(host, ["pause" if was == "paused" else "start"]):
        raise HostRefused("the new trainer did not start; see: make logs")
    return ctl(host, ["check"])


def logs(host: Host, words: list[str]) -> int:
    """Show what containers have logged, and follow it, unless `--no-follow` is among the words."""
    follow = [] if "--no-follow" in words else ["--follow"]
    tail = [] if {"--tail", "--since"} & set(words) else ["--tail", "100"]
    others = [word for word in words if word != "--no-follow"]
    return compose_for(host).run("logs", *follow, *tail, *others)


def ps(host: Host, words: list[str]) -> int:
    return compose_for(host).run("ps", "--all", *words)


def config(host: Host, words: list[str]) -> int:
    """Print the composed file, as the engine would receive it."""
    return compose_for(host).run("config", *words)


def command_json(host: Host, *words: str) -> Any:
    """Return the JSON of one command, run in its container.

    Raises HostRefused with the command's error message.
    """
    preflight.prepare_folders(host, copies=False)
    hand_over(host)
    run = ("--profile", "tools", "run", "--rm", "-T", "--no-deps", "ctl")
    output = compose_for(host).output(*run, *words, "--json")
    return json.loads(output.splitlines()[-1]) if output else None


def ctl(host: Host, words: list[str]) -> int:
    """Run the command line in its container: `python3 -m infra.compose ctl versions list`."""
    preflight.prepare_folders(host, copies=False)
    hand_over(host)
    return compose_for(host).run("--profile", "tools", "run", "--rm", "ctl", *words)
