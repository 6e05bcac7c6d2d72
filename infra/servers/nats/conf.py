"""The file nats.conf, rendered from the public keys of the users and their grants."""

from dataclasses import dataclass
from pathlib import Path

from infra.secrets.secrets import NATS_USERS, SYSTEM_USER, Secrets
from infra.servers.nats.permissions import Grant, grant, system_grant

MAX_FILE_STORE_BYTES = 4 * 2**30  # above the sum of all streams' max_bytes, which is reserved


@dataclass(frozen=True)
class NatsConf:
    """The places where one server listens and stores.

    Ports are TCP ports, on 127.0.0.1 unless another host is given. `monitor_port`: of the HTTP
    monitor, on 127.0.0.1 always; None where no health check of a container needs it.
    """

    store_dir: Path
    port: int
    monitor_port: int | None = None
    host: str = "127.0.0.1"
    server_name: str = "duramen"
    # Where the server finds cert.pem and key.pem; None: clients speak without TLS.
    tls_dir: Path | None = None

    def render(self, secrets: Secrets) -> str:
        """Return the text of nats.conf. `nats-server -t -c FILE` accepts it."""
        users = "\n".join(_user(user, secrets.public_key(user)) for user in NATS_USERS)
        return f"""\
server_name: {self.server_name}
listen: "{self.host}:{self.port}"
{self._monitor()}{self._tls()}max_payload: 1MB
jetstream {{
  store_dir: {_string(self.store_dir)}
  # An acknowledged message is on the disk: the default loses minutes at a power cut.
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: {MAX_FILE_STORE_BYTES}
}}
# The client library does not parse the new form of acknowledgement subjects.
feature_flags {{ js_ack_fc_v2: false }}
accounts {{
  DURAMEN {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
  SYS {{
    users: [
{_limited(SYSTEM_USER, secrets.public_key(SYSTEM_USER), system_grant(SYSTEM_USER))}
    ]
  }}
}}
system_account: SYS
"""

    def _monitor(self) -> str:
        return "" if self.monitor_port is None else f'http: "127.0.0.1:{self.monitor_port}"\n'

    def _tls(self) -> str:
        """Return the line that turns TLS on, or nothing.

        Users are known by their nkeys; the certificate is what clients know the server by.
        """
        if self.tls_dir is None:
            return ""
        cert, key = self.tls_dir / "cert.pem", self.tls_dir / "key.pem"
        return f"tls {{ cert_file: {_string(cert)}, key_file: {_string(key)}, timeout: 5 }}\n"


def _string(path: Path) -> str:
    """Return a path as a string of the configuration, in which `"` and `\\` are escaped."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _user(user: str, public_key: str) -> str:
    if user == "admin":
        return f"      # admin: the bootstrap only\n      {{ nkey: {public_key} }}"
    return _limited(user, public_key, grant(user))


def _limited(user: str, public_key: str, allowed: Grant) -> str:
    return f"""\
      # {user}
      {{ nkey: {public_key}
        permissions: {{
          publish: {{ allow: [{_list(allowed.publish)}] }}
          subscribe: {{ allow: [{_list(allowed.subscribe)}] }}
        }} }}"""


def _list(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)
