"""`make smoke`: the whole path in an installation of its own, with this host's GPU and stores.

It is a project beside yours (duramen-smoke, with its own volumes, ports and inbox), which is
deleted at the end. Each step says pass or FAIL; a step that cannot be run here says so. Uses only
the standard library.
"""

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from infra.compose import bus_backup, gpu_checks, lifecycle, measured, preflight
from infra.compose.engine import Compose, docker
from infra.compose.host import ROOT, Host, HostRefused
from infra.ports import DEFAULT_BASE

PROJECT = "duramen-smoke"
TINY = "from pathlib import Path; from tests.tiny import make_tiny; make_tiny(Path('/out/tiny'))"
ROWS = 60
PORTS_APART = 400
NEEDED = 3  # start, base, training: what all other steps stand on


class SmokeFailed(Exception):
    """A step did not end as it should."""


def smoke_host(environ: dict[str, str] | None = None) -> Host:
    """Return the user's settings, in another project with other volumes, ports and folders."""
    chosen = Host.load(environ)
    base = int(chosen.settings.get("DURAMEN_PORT_BASE") or DEFAULT_BASE) + PORTS_APART
    home = ROOT / "data" / "smoke"
    own = {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "DURAMEN_HOME": str(home),
        "DURAMEN_INBOX_DIR": str(home / "inbox"),
        "DURAMEN_MODELS_DIR": str(home / "models"),
        "DURAMEN_BACKUP_DIR": "",
        "DURAMEN_ARCHIVE_DIR": "",
        "DURAMEN_ACCEPT_ONE_DISK": "yes",
        "DURAMEN_PORT_BASE": str(base),
        "DURAMEN_NUM_TRAIN_EPOCHS": "4",
        "DURAMEN_BATCH_TOKENS": "128",
        "DURAMEN_CHECKPOINT_SECONDS": "2",
    }
    ports = {n: "" for n in chosen.settings if n.startswith("DURAMEN_PORT_")}
    return Host.load({**(os.environ if environ is None else environ), **ports, **own})


class Smoke:
    """One run of all steps; they are called in order."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def compose(self) -> Compose:
        """The compose command with the hashes of what is rendered by now.

        Another hash replaces a container.
        """
        return lifecycle.compose_for(self.host)

    # ---- asking ----------------------------------------------------------------------------------

    def ctl(self, *words: str) -> Any:
        return lifecycle.command_json(self.host, *words)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until `condition` holds. Raises SmokeFailed after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise SmokeFailed(f"{what}: not within {seconds:.0f} s")
            time.sleep(1)

    def versions(self) -> list[dict[str, Any]]:
        found = self.ctl("versions", "list")
        rows: list[dict[str, Any]] = found if isinstance(found, list) else found["versions"]
        return rows

    def is_healthy(self, service: str) -> bool:
        states = self.compose.containers(service)
        return bool(states) and all(c["Health"] == "healthy" for c in states)

    def pid(self, service: str) -> int:
        """Return the process id of a container, as this host sees it."""
        container = self.compose.containers(service)[0]["ID"]
        return int(docker("inspect", "--format", "{{.State.Pid}}", container))

    # ---- steps -----------------------------------------------------------------------------------

    def up(self) -> None:
        """Start as `make up` does, and print the same lines."""
        lifecycle.up(self.host, ["--no-build"])

    def base(self) -> None:
        """Add a tiny random model, made with the trainer's own image."""
        docker(
            *("run", "--rm", "--network", "none", "--user", f"{self.host.uid}:{self.host.gid}"),
            *("-v", f"{ROOT / 'tests'}:/app/tests:ro", "-v", f"{self.host.models}:/out"),
            *(self.host.image("trainer"), "python", "-c", TINY),
            seconds=180,
        )
        self.ctl("base", "add", "/models/tiny")

    def drop(self, name: str, rows: int) -> None:
        """Put a file into the inbox as one should: written elsewhere, renamed into place."""
        lines = [
            json.dumps({"prompt": f"Word {n} of {name}?", "completion": f"w{n * 7 % 31}"})
            for n in range(rows)
        ]
        part = self.host.inbox / f".{name}.part"
        part.write_text("\n".join(lines) + "\n")
        part.chmod(0o644)
        if os.getuid() == 0:
            os.chown(part, self.host.uid, self.host.gid)
        part.rename(self.host.inbox / name)

    def train(self) -> None:
        self.drop("smoke.jsonl", ROWS)
        self.wait("the first version", lambda: len(self.versions()) >= 1, 240)

    def verify(self) -> None:
        """Check every copy by reading it in full."""
        found = self.ctl("versions", "verify", "v001")
        copies = found["copies"] if isinstance(found, dict) else found
        bad = [copy for copy in copies if not copy["ok"]]
        if bad or len(copies) != 3:
            raise SmokeFailed(f"copies: {copies}")

    def probe(self) -> None:
        """Check that the bootstrap tested both stores' promises, and succeeded."""
        ended = self.compose.containers("bootstrap")[0]
        said = self.compose.output("logs", "--no-log-prefix", "bootstrap")
        if ended["ExitCode"] != 0 or "both stores passed the probe" not in said:
            raise SmokeFailed(f"bootstrap ended with {ended['ExitCode']}: {said[-500:]}")

    def gpu(self) -> None:
        """Check that torch computes on the GPU in the trainer's container.

        The trainer must also measure it.
        """
        found = preflight.look("gpu", lambda: preflight.look_gpu_in_container(self.host))
        if not found.ok:
            raise SmokeFailed(found.found)
        if [v for _, v in measured.series_values(self.compose, "duramen_gpu_up")] != [1.0]:
            raise SmokeFailed("the trainer does not measure its GPU (duramen_gpu_up)")

    def gpu_checks(self) -> None:
        """Check what only a GPU shows: gradients, memory, speed, resuming (tests/gpu)."""
        folder = self.host.home / "gpu"
        kept = ROOT / "data" / gpu_checks.TABLE  # the installation's own folder is deleted
        kept.unlink(missing_ok=True)
        try:
            gpu_checks.run_gpu_checks(self.host, folder)
        except HostRefused as error:
            raise SmokeFailed(f"see {kept}; {str(error)[-500:]}") from error
        finally:
            if (folder / gpu_checks.TABLE).exists():
                shutil.copyfile(folder / gpu_checks.TABLE, kept)
        lifecycle.print_step(f"           figures: {kept}")

    def bus(self) -> None:
        """Back the bus up and restore it at once; then all services must be healthy."""
        bus_backup.make_backup(self.host, self.compose)
        bus_backup.restore_bus(self.host, self.compose, None)
        self.wait("health", lambda: all(map(self.is_healthy, bus_backup.WRITERS)), 120)

    def rules(self) -> None:
        """Check with Prometheus' own tool that each alert fires when it should."""
        words = ("promtool", "test", "rules", "/etc/prometheus/rules_test.yml")
        said = self.compose.output("exec", "-T", "prometheus", *words)
        if "SUCCESS" not in said:
            raise SmokeFailed(said[-1000:])

    def control(self) -> None:
        """Pause, then resume; each command ends only when its effect was observed."""
        self.ctl("pause")
        self.ctl("resume")

    def restore(self) -> None:
        """Restore into a folder of the host, and check it with sha256sum and nothing of ours."""
        self.ctl("restore", "v001", "--to", "/restored/v001")
        folder = self.host.home / "restored" / "v001"
        command = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
        if subprocess.run(command, cwd=folder).returncode:
            raise SmokeFailed(f"{folder} is not what SHA256SUMS says")

    def panels(self) -> None:
        """Check that every panel's query has data."""
        gpu = self.host.torch == "cuda"
        try:
            self.wait("all panels", lambda: not measured.empty(self.compose, with_gpu=gpu), 60)
        except SmokeFailed as error:
            bare = ", ".join(measured.empty(self.compose, with_gpu=gpu))
            raise SmokeFailed(f"no data in {bare}") from error

    def grafana(self) -> None:
        """Check that the dashboards are there, and that events are drawn into them."""
        found = {each["uid"] for each in self.ask_grafana("search?type=dash-db")}
        wanted = {json.loads(file.read_text())["uid"] for file in measured.dashboards()}
        if wanted - found:
            raise SmokeFailed(f"missing: {wanted - found}")
        self.wait("annotations", lambda: bool(self.ask_grafana("annotations?tags=duramen")), 60)

    def ask_grafana(self, path: str) -> Any:
        password = (self.host.home / "secrets" / "grafana" / "admin.password").read_text()
        token = base64.b64encode(f"duramen:{password}".encode()).decode()
        url = f"http://127.0.0.1:{self.host.ports['grafana']}/api/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past any proxy
        with direct.open(request, timeout=10) as answer:
            return json.load(answer)

    def alert(self) -> None:
        """Check that an alert fires for a stopped service, and ends when it is back."""
        self.compose.output("stop", "evolution")
        self.wait("TargetDown", lambda: "TargetDown" in measured.firing(self.compose), 150)
        self.compose.output("start", "evolution")
        self.wait("its end", lambda: "TargetDown" not in measured.firing(self.compose), 120)

    def kill(self, service: str = "trainer") -> None:
        """Kill a container's process by SIGKILL, and check that it is restarted by itself."""
        before = self.pid(service)
        # From a container, since the process is another user's.
        docker(
            *("run", "--rm", "--pid", "host", "--user", "0", "--network", "none"),
            *("--cap-drop", "ALL", "--cap-add", "KILL", self.host.image("bootstrap")),
            *("python", "-c", f"import os; os.kill({before}, 9)"),
        )
        self.wait("a new process", lambda: self.pid(service) not in (0, before), 60)
        self.wait("health", lambda: self.is_healthy(service), 120)

    def again(self) -> None:
        """Run down and up, and check that everything is still there."""
        before = self.versions()
        self.compose.output("down")
        with contextlib.redirect_stdout(io.StringIO()):  # it was all said at the start
            lifecycle.up(self.host, ["--no-build"])
        if self.versions() != before:
            raise SmokeFailed("the versions have changed")

    def notify(self) -> None:
        self.ctl("notify", "test")

    def remove(self) -> None:
        """Remove containers, volumes, networks and files; another run makes new secrets."""
        with contextlib.redirect_stdout(io.StringIO()):
            lifecycle.destroy(self.host, [self.host.project])
        # What is there belongs to the containers' user, or to this one.
        shutil.rmtree(self.host.home, ignore_errors=True)


Step = tuple[str, Callable[[], None], str]  # its name, what it does, why it is left out here


def steps_of(smoke: Smoke, words: list[str]) -> list[Step]:
    """Return all steps in their order."""
    host = smoke.host
    addresses = host.settings.get("DURAMEN_NOTIFY_URLS")
    return [
        ("start", smoke.up, ""),
        ("base model", smoke.base, ""),
        ("training to a version", smoke.train, ""),
        ("GPU", smoke.gpu, "" if host.torch == "cuda" else "DURAMEN_TORCH=cpu"),
        ("what only a GPU shows", smoke.gpu_checks, no_gpu(host, words)),
        ("MinIO", smoke.probe, "" if host.store == "minio" else f"DURAMEN_STORE={host.store}"),
        ("both stores keep their promises", smoke.probe, ""),
        ("three copies read back", smoke.verify, ""),
        ("alert rules", smoke.rules, ""),
        ("every panel has data", smoke.panels, ""),
        ("pause and resume", smoke.control, ""),
        ("restore", smoke.restore, ""),
        ("backup and restore of the bus", smoke.bus, ""),
        ("kill -9 of the trainer", smoke.kill, ""),
        ("Grafana", smoke.grafana, "DURAMEN_WITHOUT=grafana" if "grafana" in host.without else ""),
        ("alert fires and ends", smoke.alert, ""),
        ("notification", smoke.notify, "" if addresses else "DURAMEN_NOTIFY_URLS is not set"),
        ("down and up", smoke.again, ""),
    ]


def run(_host: Host, words: list[str]) -> int:
    """Run all steps; return exit status 1 if one failed.

    `--keep` leaves the installation as it is, and `--no-gpu` leaves out the 8 minutes of tests/gpu.
    """
    begun = time.monotonic()
    smoke = Smoke(smoke_host())
    host = smoke.host
    tls = preflight.look("tls", lambda: preflight.look_tls(host))
    if tls.ok is False:
        raise HostRefused(tls.found)
    lifecycle.print_step(f"An installation of its own, {host.project}, data in {host.home}")
    smoke.remove()  # what an earlier run may have left
    lifecycle.build_images(host, smoke.compose)
    steps = steps_of(smoke, words)
    failed = []
    for place, (name, step, why) in enumerate(steps):
        if not passes(name, step, why):
            failed.append(name)
            if place < NEEDED:
                break  # nothing after it could pass
    if "--keep" in words:
        lifecycle.print_step(f"kept: {host.project}, {host.home}")
    elif not passes("everything of it is deleted", smoke.remove, ""):
        failed.append("deletion")
    if failed and "--keep" not in words:
        lifecycle.print_step("To keep the containers and inspect them: make smoke ARGS=--keep")
    left_out = [name for name, _, why in steps if why]
    if left_out:
        lifecycle.print_step(f"\nnot run: {', '.join(left_out)}")
    took = f"{(time.monotonic() - begun) / 60:.1f} minutes"
    lifecycle.print_step(
        f"FAILED after {took}: {', '.join(failed)}" if failed else f"passed in {took}"
    )
    return 1 if failed else 0


def no_gpu(host: Host, words: list[str]) -> str:
    """Return why the checks of the GPU are left out; empty if they are not."""
    if host.torch != "cuda":
        return f"DURAMEN_TORCH={host.torch}: nothing was checked on a GPU"
    return "--no-gpu: nothing was checked on a GPU" if "--no-gpu" in words else ""


def passes(name: str, step: Callable[[], None], why_not: str) -> bool:
    """Run one step and print its line; return False if it failed."""
    if why_not:
        lifecycle.print_step(f"  not run  {name}: {why_not}")
        return True
    begun = time.monotonic()
    try:
        step()
    except (SmokeFailed, HostRefused, OSError, ValueError, LookupError) as error:
        lifecycle.print_step(f"  FAIL     {name}: {error}")
        return False
    lifecycle.print_step(f"  pass     {name} ({time.monotonic() - begun:.0f} s)")
    return True
