"""The one folder of an embedded run; everything lies below it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("nats", "store", "backup", "archive", "inbox", "state", "logs", "run")


@dataclass(frozen=True)
class Home:
    """The paths below `root`. `make` creates the folders; nothing here ever deletes one."""

    root: Path

    @classmethod
    def make(cls, root: Path, say: Callable[[str], None] | None = None) -> "Home":
        """Make the folders, closed to other users of the host; `say` tells of one that was open."""
        root = root.absolute()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if root.stat().st_mode & 0o077:
            root.chmod(0o700)
            if say is not None:
                say(f"{root} was open to other users of this host, and is now yours alone (0700).")
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        (root / "run").chmod(0o700)
        return cls(root)

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def backup(self) -> Path:
        return self.root / "backup"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """The folder of rendered configuration and per-service environment files (owner only)."""
        return self.root / "run"

    @property
    def env_file(self) -> Path:
        """The file with the command line's settings."""
        return self.root / "env"

    @property
    def pid_file(self) -> Path:
        return self.root / "supervisor.pid"

    @property
    def status_file(self) -> Path:
        return self.root / "run" / "status.json"

    def state(self, service: str) -> Path:
        """Return the folder that belongs to one service alone, made if it is missing."""
        folder = self.root / "state" / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"
