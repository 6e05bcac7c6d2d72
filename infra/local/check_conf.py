"""Let nats-server check the configuration that we render, with throw-away secrets.

python -m infra.local.check_conf
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from infra.local.servers import binary
from infra.secrets.secrets import Secrets
from infra.servers.nats.conf import NatsConf


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        secrets = Secrets.ensure(Path(folder) / "secrets")
        path = Path(folder) / "nats.conf"
        path.write_text(NatsConf(Path(folder) / "data", 4222, 8222).render(secrets))
        return subprocess.run([binary("nats-server"), "-t", "-c", path]).returncode


if __name__ == "__main__":
    sys.exit(main())
