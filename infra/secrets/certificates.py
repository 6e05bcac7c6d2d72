"""An installation's own certificates: a CA signs once, then its key is thrown away."""

import datetime
import ipaddress
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.files import whole_folder, write_synced

# An expired certificate would stop a server; rotation is by deleting the folder.
VALID_DAYS = 20 * 365
LOOPBACK = "127.0.0.1"


def certificate(name: str, *hosts: str) -> dict[str, bytes]:
    """Return a new CA and one certificate, as PEM files by name.

    The certificate is for `hosts`, localhost and 127.0.0.1.
    """
    ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name(f"duramen {name} CA")
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    alternatives: list[x509.GeneralName] = [
        *(x509.DNSName(host) for host in ("localhost", *hosts)),
        x509.IPAddress(ipaddress.ip_address(LOOPBACK)),
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


def keep_certificate(folder: Path, files: Mapping[str, bytes], file_mode: int) -> None:
    """Create `folder` with `files`, whole or not at all."""
    with whole_folder(folder, 0o700) as temporary:
        for name, content in files.items():
            write_synced(temporary / name, content, file_mode)


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
