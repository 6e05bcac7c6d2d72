"""The checks that this host is ready for the containers: `python3 -m infra.compose doctor`.

Each check is one line: its name, whether it is right, what was found or what to do. Uses only the
standard library.
"""

import contextlib
import json
import os
import platform
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from infra import ports
from infra.compose import memory
from infra.compose.disks import disks_of, domains, there
from infra.compose.engine import OLDEST_COMPOSE, OLDEST_ENGINE, Compose, docker, numbers
from infra.compose.host import FIXED_ID, ROOT, TLS_FILES, Host, HostRefused
from shared import setting_names
from shared.errors import UnknownSettings
from shared.look import Look

FREE_BYTES = 20 << 30
# What the pinned torch of services/torch-cuda.lock is built for: CUDA 13 knows no older ones.
OLDEST_DRIVER = (580,)
OLDEST_CAPABILITY = (7, 5)
MOUNTED = ("infra/prometheus", "infra/grafana")  # from the checkout, into containers of other users
TOOLKIT = (
    "install the NVIDIA Container Toolkit, then: sudo nvidia-ctk runtime configure "
    "--runtime=docker && sudo systemctl restart docker"
)


def look(what: str, check: Callable[[], tuple[bool | None, str]]) -> Look:
    try:
        return Look(what, *check())
    except (HostRefused, OSError, ValueError, KeyError) as error:
        return Look(what, False, str(error) or type(error).__name__)


def preflight(host: Host, compose: Compose) -> list[Look]:
    """Return the results of all checks that can be made before anything is built."""
    checks: list[tuple[str, Callable[[], tuple[bool | None, str]]]] = [
        ("settings", lambda: look_settings(host)),
        ("host", look_host),
        ("engine", look_engine),
        ("compose", look_compose),
    ]
    looks = [look(what, check) for what, check in checks]
    if any(found.ok is False for found in looks):
        return looks  # nothing else can be asked
    if host.torch == "cuda":
        looks.append(look("gpu", lambda: look_gpu(host)))
        looks.append(look("toolkit", look_toolkit))
    if host.tls:
        looks.append(look("tls", lambda: look_tls(host)))
    looks.append(look("ports", lambda: look_ports(host, compose)))
    looks.append(look("inbox", lambda: look_inbox(host)))
    looks.append(look("permissions", lambda: look_permissions(host)))
    looks.append(look("memory", lambda: look_memory(host)))
    looks.append(look("clock", look_clock))
    looks.append(look("space", lambda: look_space(host)))
    looks.append(look("disks", lambda: look_disks(host)))
    return looks


def look_settings(host: Host) -> tuple[bool | None, str]:
    """Check that something reads each setting in .env and in the environment."""
    try:
        warning = setting_names.refuse_unknown(host.settings)
    except UnknownSettings as error:
        return False, str(error)
    if warning:
        return None, warning
    chosen = [name for name in host.settings if name.startswith(setting_names.PREFIX)]
    return True, f"{len(chosen)} in .env and the environment, all known"


def look_host() -> tuple[bool | None, str]:
    if platform.system() != "Linux":
        return False, f"{platform.system()} is not supported: use Linux, or WSL2 on Windows"
    wsl = "microsoft" in platform.release().lower()
    return True, f"Linux {platform.release()}" + (" (WSL2)" if wsl else "")


def look_engine() -> tuple[bool | None, str]:
    version = docker("version", "--format", "{{.Server.Version}}")
    return numbers(version) >= OLDEST_ENGINE, f"Docker {version} (20.10 or newer)"


def look_compose() -> tuple[bool | None, str]:
    version = docker("compose", "version", "--short")
    return numbers(version) >= OLDEST_COMPOSE, f"Compose {version} (2.24.4 or newer)"


def look_gpu(host: Host) -> tuple[bool | None, str]:
    """Check the GPU that the trainer shall have, as the host's driver sees it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False, (
            "nvidia-smi is not here: install the NVIDIA driver, or set DURAMEN_TORCH=cpu to train "
            "on the processor"
        )
    query = ["--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader"]
    command = [tool, f"--id={gpu_of(host)}", *query]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    said = done.stdout.strip() or done.stderr.strip()
    if done.returncode:
        return False, f"GPU {gpu_of(host)} (DURAMEN_TRAINER_GPUS): nvidia-smi says: {said}"
    line = said.splitlines()[0]
    if host.settings.get("DURAMEN_TORCH_INDEX"):
        return None, f"{line}; a container is tried after the build of another torch"
    return fits_torch(line)


def fits_torch(line: str) -> tuple[bool | None, str]:
    """Check that the pinned torch can use a GPU.

    `line` is "name, driver, compute capability, memory", as nvidia-smi prints it.
    """
    name, driver, capability, memory = (part.strip() for part in line.split(","))
    if numbers(driver) < OLDEST_DRIVER:
        return False, (
            f"{name}: driver {driver} is older than {OLDEST_DRIVER[0]}, which this torch's CUDA "
            "needs: update the driver, or name another build (DURAMEN_TORCH_INDEX)"
        )
    if numbers(capability) < OLDEST_CAPABILITY:
        oldest = ".".join(str(part) for part in OLDEST_CAPABILITY)
        return False, (
            f"{name} has compute capability {capability}; this torch has no code for GPUs below "
            f"{oldest}: name an older CUDA's build (DURAMEN_TORCH_INDEX)"
        )
    return True, f"{name}, driver {driver}, compute capability {capability}, {memory}"


def gpu_of(host: Host) -> str:
    """Return the number or UUID of the trainer's GPU."""
    return host.settings.get("DURAMEN_TRAINER_GPUS") or "0"


def look_toolkit() -> tuple[bool | None, str]:
    """Check that Docker can give a GPU to a container.

    The proof comes later, when a container is started with one.
    """
    if "nvidia" in json.loads(docker("info", "--format", "{{json .Runtimes}}")):
        return True, "Docker knows the `nvidia` runtime"
    if shutil.which("nvidia-container-runtime-hook"):
        return True, "the NVIDIA Container Toolkit is installed"
    if "Desktop" in docker("info", "--format", "{{.OperatingSystem}}"):
        return None, "Docker Desktop brings its own; a container is tried after the build"
    return False, f"Docker cannot give a GPU to a container: {TOOLKIT}"


def look_gpu_in_container(host: Host) -> tuple[bool | None, str]:
    """Check, after the build, that the trainer's own torch can use the GPU in a container."""
    output = docker(
        *("run", "--rm", "--gpus", f"device={gpu_of(host)}", "--network", "none"),
        *("-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", host.image("trainer")),
        *("python", "-m", "services.trainer.worker.gpu_check"),
        seconds=180,
    )
    seen = json.loads(output.splitlines()[-1])
    if not seen["usable"]:
        return False, f"{seen['why']} (torch {seen['torch']}, driver {seen['driver']})"
    return (
        True,
        f"{seen['name']}, driver {seen['driver']}, torch {seen['torch']} for {seen['arch']}",
    )


def look_tls(host: Host) -> tuple[bool | None, str]:
    """Check the user's own certificate by using it as the bus and its clients will."""
    given = host.settings.get("DURAMEN_NATS_TLS_DIR")
    if not (host.tls and given):
        return True, "a certificate is made here"
    ca, cert, key = ((ROOT / given).absolute() / name for name in TLS_FILES)
    missing = [path.name for path in (ca, cert, key) if not path.is_file()]
    if missing:
        return False, f"{ca.parent} (DURAMEN_NATS_TLS_DIR) lacks {', '.join(missing)}"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key under a passphrase is refused, not asked about: the bus could not open it.
        server.load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        return (
            False,
            f"{cert} and {key.name} are not a certificate and its unencrypted key: {error}",
        )
    try:
        client = ssl.create_default_context(cafile=str(ca))
        for name in ("nats", "127.0.0.1"):
            handshake(client, server, name)
    except ssl.SSLCertVerificationError as error:
        return False, f"{cert}: {error.verify_message} (by {ca.name})"
    except (ssl.SSLError, OSError) as error:
        return False, f"{ca} is not the certificate of an authority: {error}"
    return True, f"{cert} is for nats and 127.0.0.1, signed by {ca.name}"


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Make a TLS handshake between two ends in memory.

    Raises ssl.SSLError as a real connection to `name` would.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(3):  # hello, answer, end
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def look_ports(host: Host, compose: Compose) -> tuple[bool | None, str]:
    if compose.running():
        return True, "used by this installation, which is already running"
    taken = [
        f"{port} ({ports.port_setting(n)})"
        for n, port in host.ports.items()
        if ports.is_taken(port)
    ]
    if taken:
        return (
            False,
            f"taken: {', '.join(taken)}; set these, or DURAMEN_PORT_BASE to move all ports",
        )
    return True, f"{min(host.ports.values())} to {max(host.ports.values())} on {ports.HOST}"


def look_inbox(host: Host) -> tuple[bool | None, str]:
    """Check that the inbox is owned by the user that the containers run as."""
    host.inbox.mkdir(parents=True, exist_ok=True)
    owner = host.inbox.stat().st_uid
    if owner == host.uid:
        return True, f"{host.inbox}, shared with user {owner}"
    if os.getuid() == 0:
        os.chown(host.inbox, host.uid, host.gid)
        return True, f"{host.inbox}, now owned by user {host.uid} of the containers"
    return False, f"{host.inbox} belongs to user {owner}: sudo chown {host.uid} {host.inbox}"


def look_permissions(host: Host) -> tuple[bool | None, str]:
    """Check that containers can use the folders that they share with this host.

    The folders must belong to the user that the containers run as, or to root if root starts them
    and gives the folders away. A missing folder is made at the start, if that is possible.
    Everybody must be able to read what is mounted from the checkout.
    """
    folders = {
        "DURAMEN_HOME": host.home,
        "DURAMEN_HOME/hub": host.home / "hub",
        "DURAMEN_BACKUP_DIR": host.folder("backup"),
        "DURAMEN_ARCHIVE_DIR": host.folder("archive"),
    }
    theirs, wrong = 0, []
    for name, folder in folders.items():
        if folder is None:
            continue
        if not folder.exists():
            if not os.access(there(folder), os.W_OK | os.X_OK):
                make = f"sudo install -d -o {host.uid} -g {host.gid} {folder}"
                wrong.append(f"{folder} ({name}) cannot be made by this user: {make}")
            continue
        theirs += 1
        owner = folder.stat().st_uid
        if owner != host.uid and not (os.getuid() == 0 == owner):
            wrong.append(
                f"{folder} ({name}) belongs to user {owner}: sudo chown {host.uid} {folder}"
            )
    closed = [path for folder in MOUNTED for path in closed_to_others(ROOT / folder)]
    if closed:
        wrong.append(f"{closed[0]} cannot be read in containers: chmod -R a+rX {ROOT / 'infra'}")
    if wrong:
        return False, "; ".join(wrong)
    return True, f"containers run as user {host.uid}; {theirs} folders are theirs"


def closed_to_others(folder: Path) -> list[Path]:
    """Return files and folders that a user who is neither owner nor in the group cannot read."""
    paths = [folder, *folder.rglob("*")]
    return [p for p in paths if ~p.stat().st_mode & (0o005 if p.is_dir() else 0o004)]


def look_clock() -> tuple[bool | None, str]:
    """Check the clock, which locks and certificates depend on.

    That of a virtual machine may have stood still.
    """
    tool = shutil.which("timedatectl")
    if tool is None:
        return None, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) + " (is it right?)"
    command = [tool, "show", "--property=NTPSynchronized", "--value"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode:
        return None, "timedatectl does not say whether the clock is set by a time server"
    if done.stdout.strip() != "yes":
        return (
            None,
            "not set by a time server: retention of backups goes by it (timedatectl set-ntp true)",
        )
    return True, "set by a time server"


def engine_folder() -> Path:
    """Return the folder of named volumes, or the nearest one above it that is visible.

    Its parent may be closed.
    """
    return there(Path(docker("info", "--format", "{{.DockerRootDir}}")))


def engine_memory() -> int:
    """Return how many bytes of memory the engine's host has, which may be a virtual machine."""
    return int(docker("info", "--format", "{{.MemTotal}}"))


def look_memory(host: Host) -> tuple[bool | None, str]:
    """Check that the containers fit into the memory of the engine's host."""
    total = engine_memory()
    found = memory.limits(host, total)
    others = sum(found.values()) - found["trainer"]
    return True, (
        f"{total / 2**30:.1f} GiB: {found['trainer'] / 1024:.1f} for the trainer, "
        f"{others / 1024:.1f} for the others at most"
    )


def look_space(host: Host) -> tuple[bool | None, str]:
    folders = [engine_folder(), host.folder("backup"), host.folder("archive"), host.inbox]
    free = {str(f): shutil.disk_usage(there(f)).free for f in folders if f}
    low = [f"{name}: {size >> 30} GiB" for name, size in free.items() if size < FREE_BYTES]
    if low:
        return None, f"little space left ({', '.join(low)}); a base model is kept three times"
    return True, ", ".join(f"{size >> 30} GiB at {name}" for name, size in free.items())


def failure_domains(host: Host) -> list[list[str]]:
    """Return which of store, backup and archive share a disk: one list for each disk."""
    engine = engine_folder()
    places = {"store": None, "backup": host.folder("backup"), "archive": host.folder("archive")}
    return domains({name: disks_of(folder or engine) for name, folder in places.items()})


def shown_domains(groups: list[list[str]]) -> str:
    """Return the groups for people: `1 disk (store and backup and archive)`."""
    disks = f"{len(groups)} disk" + ("s" if len(groups) > 1 else "")
    return f"{disks} ({'; '.join(' and '.join(names) for names in groups)})"


def look_disks(host: Host) -> tuple[bool | None, str]:
    """Check that the backup has a disk of its own, or that the user accepts that it has not."""
    groups = failure_domains(host)
    together = any({"store", "backup"} <= set(names) for names in groups)
    if not together:
        return True, shown_domains(groups)
    if host.accepts_one_disk:
        what = "them all" if len(groups) == 1 else "store and backup"
        return None, f"3 copies, {shown_domains(groups)}: accepted; a dead disk takes {what}"
    return False, (
        f"3 copies, {shown_domains(groups)}: set DURAMEN_BACKUP_DIR to a folder on another disk, "
        "or DURAMEN_ACCEPT_ONE_DISK=yes to start without one"
    )


def prepare_folders(host: Host, *, copies: bool = True) -> None:
    """Make the folders that are shared with containers, owned by the containers' user.

    Those of `copies` are made only at a start, which checks their disks first.
    """
    shared = [host.home, host.models, host.home / "restored", host.home / "hub", host.inbox]
    shared += [f for f in (host.folder("backup"), host.folder("archive")) if f and copies]
    for folder in shared:
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0 and folder.stat().st_uid == 0:
            os.chown(folder, FIXED_ID, FIXED_ID)
    host.home.chmod(0o700)
