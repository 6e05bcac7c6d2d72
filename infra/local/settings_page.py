"""Write docs/settings.md from the settings classes.

    python -m infra.local.settings_page [--check]

With --check nothing is written; the exit status is 1 if the page is not what would be written.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from infra.compose.memory import NEEDS
from infra.ports import DEFAULT_BASE, OFFSETS
from infra.servers.bootstrap import BootstrapSettings
from services.ctl.settings import CtlSettings
from services.evolution.settings import EvolutionSettings
from services.herald.settings import HeraldSettings
from services.ingest.settings import IngestSettings
from services.trainer.settings import OF_A_JOB, TrainerSettings
from services.vault.settings import VaultSettings
from shared.setting_names import INSTALLATION, PREFIX, RENAMED, RETIRED
from shared.settings import Settings, StoreSettings

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "settings.md"
PROGRAMS: dict[str, type[BaseSettings]] = {
    "ingest": IngestSettings,
    "trainer": TrainerSettings,
    "vault": VaultSettings,
    "evolution": EvolutionSettings,
    "herald": HeraldSettings,
    "bootstrap": BootstrapSettings,
    "duramen": CtlSettings,
}
UNITS = ("seconds", "days", "bytes", "tokens", "steps")
OTHER_UNITS = {"memory_limit": "bytes", "max_length": "tokens", "num_train_epochs": "epochs"}
# What the user of an installation sets, of what bootstrap reads.
OF_THE_BACKUP = ("backup_retention_days", "backup_lock")
# What both installations work out by themselves: addresses, keys, places inside containers.
WORKED_OUT = {
    *Settings.model_fields.keys() - {"log_level"},
    *StoreSettings.model_fields.keys() - Settings.model_fields.keys(),
    *BootstrapSettings.model_fields.keys() - set(OF_THE_BACKUP),
    *(CtlSettings.model_fields.keys() - {"wait_seconds", "hub_token_file"}),
    *("backup_disk", "store_health_urls", "prometheus_url", "grafana_url", "grafana_password"),
} - {"archive_dir", "inbox_dir"}


class SettingLine(NamedTuple):
    """A line of a table. `default` is None where there is none."""

    name: str
    default: str | None
    unit: str
    meaning: str

    def line(self) -> str:
        default = "required" if self.default is None else self.default or "–"
        return f"| `{self.name}` | {default} | {self.unit} | {self.meaning} |"


# What only `make up`, `make local` and `make install` read.
OWN_FOLDERS = [
    SettingLine("HOME", "`data/compose`", "", "Secrets, rendered settings, backups of the bus."),
    SettingLine(
        "ARCHIVE_DIR", "", "", "The third copy. Unset, it lies in the installation's own folder."
    ),
    SettingLine(
        "BACKUP_DIR", "", "", "The second copy, best on another disk. Unset, it is a volume."
    ),
    SettingLine(
        "INBOX_DIR", "", "", "The inbox. Unset: `inbox` here, or in the embedded run's folder."
    ),
    SettingLine("MODELS_DIR", "`HOME/models`", "", "Models that `base add /models/NAME` finds."),
    SettingLine("ACCEPT_ONE_DISK", "no", "", "`yes` starts with store and backup on one disk."),
]
MACHINES = [
    SettingLine("STORE", "minio", "", "The server of store and backup: `minio` or `seaweedfs`."),
    SettingLine("WITHOUT", "", "", "Parts to leave out: `grafana`."),
    SettingLine(
        "TORCH_INDEX",
        "",
        "",
        "A package index with the build of torch that you need. It is not verified by hashes.",
    ),
    SettingLine("TRAINER_GPUS", "0", "", "The GPU to train on: its number or its UUID."),
    SettingLine(
        "TRAINER_MEMORY",
        "",
        "",
        "The most memory that the trainer's container may use, such as `64g`. Unset, what the host "
        "has beyond the others and a tenth for the system.",
    ),
    SettingLine("METRICS_RETENTION", "90d", "", "How long Prometheus keeps measurements."),
    SettingLine("NATS_TLS", "no", "", "`yes` makes the bus speak TLS."),
    SettingLine("NATS_TLS_DIR", "", "", "Your own `ca.pem`, `cert.pem` and `key.pem` for it."),
    SettingLine("COMPOSE_FILES", "", "", "Compose files of your own, after those of Duramen."),
]
FOR_COMMANDS = [
    SettingLine(
        "ENV_FILE", "", "", "The settings file of the installation that `duramen` talks to."
    ),
    SettingLine(
        "READER_ACCESS_KEY", "written", "", "A read-only key to the store, for your programs."
    ),
    SettingLine("READER_SECRET_KEY", "written", "", "The secret key that belongs to it."),
]
# Passed from `make up` to compose and images; whoever sets them is overruled.
HANDED_ON = {
    "host_gid", "host_uid", "notify_rendered", "rendered", "restore_dir", "secrets", "service",
    "version", "volumes", "watching",
}  # fmt: skip


def page() -> str:
    """Return the text of docs/settings.md."""
    return "\n".join([*intro(), *chapters(), *history()]) + "\n"


def intro() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "<!-- Written by `python -m infra.local.settings_page`; change the settings classes. -->"
    yield ""
    yield f"Every name has the prefix `{PREFIX}` and stands in `.env` (a copy of `.env.example`) or"
    yield "in the environment, which wins. `make up`, `make local`, `make demo` and each service"
    yield "refuse a name that nothing reads. A setting of a service can also be given as a file:"
    yield f"`{PREFIX}X_FILE` names one that holds the value of `{PREFIX}X`."
    yield ""
    yield "`make demo` trains with small values of its own. A job chooses its own settings of"
    yield "training in the YAML file beside it or with `duramen submit --set`."


def chapters() -> Iterator[str]:
    trainer = dict(own_lines(TrainerSettings))
    jobs = [trainer.pop(name) for name in OF_A_JOB]
    ports = [f"`{name.upper()}` {DEFAULT_BASE + offset}" for name, offset in OFFSETS.items()]
    yield from chapter("How a job trains, unless it says otherwise (trainer)", jobs)
    yield from chapter("The trainer", trainer.values())
    for name in ("ingest", "vault"):
        yield from chapter(f"{name}", dict(own_lines(PROGRAMS[name])).values())
    yield from chapter("herald", dict(own_lines(HeraldSettings)).values())
    yield from chapter("Every service", [r for n, r in every(Settings) if n not in WORKED_OUT])
    yield from chapter(
        "Folders (`make up`; the archive and the inbox also `make local`)", OWN_FOLDERS
    )
    backup = [row for name, row in every(BootstrapSettings) if name in OF_THE_BACKUP]
    yield from chapter("Containers (`make up`)", [*MACHINES, *backup])
    yield ""
    yield f"`{PREFIX}MEMORY_` with one of these names limits another container; unset, `make up`"
    yield f"works it out from the host's memory, and refuses a host that is too small: {needs()}."
    base = SettingLine(
        "PORT_BASE", str(DEFAULT_BASE), "", "The first of 40 ports, all on 127.0.0.1."
    )
    yield from chapter("Ports", [base])
    yield ""
    yield f"`{PREFIX}PORT_` with one of these names moves one port: {', '.join(ports)}."
    own = [row for name, row in every(CtlSettings) if name in ("wait_seconds", "hub_token_file")]
    yield from chapter("The command line (`duramen`)", [*own, *FOR_COMMANDS])
    yield ""
    yield "`HF_TOKEN` holds a token of the model hub, unless `HUB_TOKEN_FILE` names a file. These"
    yield "have no prefix: `OBJECT_STORE_IMAGE` (another image of MinIO), `COMPOSE_PROJECT_NAME`,"
    yield "and for building images `PYTHON_IMAGE`, `BUILD_NETWORK` and `BUILD_FIND_LINKS`."
    yield from worked_out()


def worked_out() -> Iterator[str]:
    yield ""
    yield "## Worked out by the installation"
    yield ""
    yield "Addresses, keys and places inside containers. Set them only to run a service by hand."
    yield from ("", "| Setting | Read by | What it is |", "|---|---|---|")
    readers: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for program, kind in PROGRAMS.items():
        for name, row in every(kind):
            if name in WORKED_OUT:
                readers.setdefault(row.name, []).append(program)
                meanings.setdefault(row.name, row.meaning)
    for name, programs in readers.items():
        yield f"| `{name}` | {', '.join(programs)} | {meanings[name]} |"
    names = ", ".join(f"`{name.upper()}`" for name in sorted(HANDED_ON))
    yield ""
    yield f"`make up` tells compose and the images: {names}."


def needs() -> str:
    """Return the least and the most memory of each container but the trainer's, in MiB."""
    return ", ".join(f"`{n.upper()}` {need.floor} to {need.most} MiB" for n, need in NEEDS.items())


def history() -> Iterator[str]:
    yield ""
    yield "## Names of earlier versions"
    yield ""
    for old, new in RENAMED.items():
        yield f"- `{old.removeprefix(PREFIX)}` is now `{new.removeprefix(PREFIX)}`; it is refused."
    names = ", ".join(f"`{name.removeprefix(PREFIX)}`" for name in sorted(RETIRED))
    yield f"- {names} have no effect any more; a warning says so."


def chapter(title: str, lines: Iterable[SettingLine]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| Setting | Default | Unit | What it does |")
    yield "|---|---|---|---|"
    yield from (row.line() for row in lines)


def own_lines(kind: type[BaseSettings]) -> Iterator[tuple[str, SettingLine]]:
    """Yield the settings that a user may set for one service, and for no other."""
    shared = StoreSettings.model_fields
    return ((n, r) for n, r in every(kind) if n not in shared and n not in WORKED_OUT)


def every(kind: type[BaseSettings]) -> Iterator[tuple[str, SettingLine]]:
    for name, field in kind.model_fields.items():
        if not field.description:
            raise ValueError(f"{kind.__name__}.{name} has no description")
        yield name, SettingLine(name.upper(), default_of(field), unit_of(name), field.description)


def default_of(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, int) and value >= 2**20 and not value % 2**20:
        return f"{value >> 30} GiB" if not value % 2**30 else f"{value >> 20} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def unit_of(name: str) -> str:
    return OTHER_UNITS.get(name) or next((u for u in UNITS if name.endswith(f"_{u}")), "")


def main() -> int:
    listed = {row.name.lower() for row in (*OWN_FOLDERS, *MACHINES, *FOR_COMMANDS)} | {"port_base"}
    missing = INSTALLATION - listed - HANDED_ON
    if missing:
        raise ValueError(f"not described: {', '.join(sorted(missing))}")
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") != text:
        command = "python -m infra.local.settings_page"
        print(f"{PAGE.name} is not what the classes say. Write it: {command}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
