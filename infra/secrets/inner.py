"""The protection of a SeaweedFS server's inner ports: mutual TLS on gRPC, JWT on HTTP.

Without it, whoever reaches the filer or the gRPC ports can delete locked versions or install an
administrator's key. Each server has a CA of its own, whose key is thrown away after it has signed
the one certificate that all parts of that server share.
"""

import json
import secrets
from pathlib import Path

from infra.secrets.certificates import certificate, keep_certificate

JWT_SECTIONS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
GRPC_SECTIONS = ("grpc.master", "grpc.volume", "grpc.filer", "grpc.s3", "grpc.client")


def write_inner(folder: Path, name: str, file_mode: int = 0o600) -> None:
    """Create `folder` with ca.pem, cert.pem, key.pem and jwt.json, unless it exists."""
    if folder.exists():
        return
    keys = {section: secrets.token_hex(32) for section in JWT_SECTIONS}
    files = {**certificate(name), "jwt.json": json.dumps(keys, indent=1).encode()}
    keep_certificate(folder, files, file_mode)


def security_toml(folder: Path, seen_as: Path | None = None) -> str:
    """Return the server's security file, from what `write_inner` made in `folder`.

    It names absolute paths; `seen_as` is where the server itself finds the folder, if elsewhere.
    """
    where = seen_as or folder
    lines = []
    for section, key in json.loads((folder / "jwt.json").read_text()).items():
        lines += [f"[{section}]", f'key = "{key}"', ""]
    lines += ["[grpc]", f"ca = {toml(where / 'ca.pem')}", ""]
    for section in GRPC_SECTIONS:
        lines += [f"[{section}]", f"cert = {toml(where / 'cert.pem')}"]
        lines += [f"key = {toml(where / 'key.pem')}", ""]
    return "\n".join(lines)


def toml(path: Path) -> str:
    """Return a path as a TOML string: its escapes are those of JSON."""
    return json.dumps(str(path), ensure_ascii=False)
