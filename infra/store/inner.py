"""What closes the inner ports of a SeaweedFS server: mutual TLS on gRPC, JWT on HTTP.

Without them whoever reaches the filer or the gRPC ports deletes locked versions or installs an
administrator's key. Each server has a CA of its own, whose key is thrown away after it has signed
the one certificate that all parts of that server share.
"""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = (
    20 * 365
)  # an expired certificate would stop a store; rotation is by deleting the folder
JWT_SECTIONS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
GRPC_SECTIONS = ("grpc.master", "grpc.volume", "grpc.filer", "grpc.s3", "grpc.client")


def write_inner(folder: Path, name: str, file_mode: int = 0o600) -> None:
    """Create `folder` with ca.pem, cert.pem, key.pem and jwt.json, unless it exists."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    files = certificate(name)
    keys = {section: secrets.token_hex(32) for section in JWT_SECTIONS}
    files["jwt.json"] = json.dumps(keys, indent=1).encode()
    for file_name, content in files.items():
        path = temporary / file_name
        # Created with its mode and written through the one descriptor: 0o444 cannot be reopened.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, file_mode)
            file.write(content)
    temporary.rename(folder)


def security_toml(folder: Path, seen_as: Path | None = None) -> str:
    """The server's security file, from what `write_inner` made in `folder`.

    It names absolute paths; `seen_as` is where the server itself finds the folder, if elsewhere.
    """
    where = seen_as or folder
    lines = []
    for section, key in json.loads((folder / "jwt.json").read_text()).items():
        lines += [f"[{section}]", f'key = "{key}"', ""]
    lines += ["[grpc]", f'ca = "{where / "ca.pem"}"', ""]
    for section in GRPC_SECTIONS:
        lines += [f"[{section}]", f'cert = "{where / "cert.pem"}"']
        lines += [f'key = "{where / "key.pem"}"', ""]
    return "\n".join(lines)


def certificate(name: str) -> dict[str, bytes]:
    """A fresh CA and one certificate for localhost and 127.0.0.1, as PEM files by name."""
    ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name(f"duramen {name} CA")
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    alternatives: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    leaf = (
        _builder(_name("localhost"), ca_name, leaf_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_pem = leaf_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "ca.pem": ca.public_bytes(pem),
        "cert.pem": leaf.public_bytes(pem),
        "key.pem": key_pem,
    }


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )
