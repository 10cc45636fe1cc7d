"""A certificate authority for one test, with certificates for a worker and a client on 127.0.0.1."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Certificates:
    """PEM files in `directory`: `ca.pem`, and `<name>.pem`, `<name>.key` made when first asked for."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority of a test")
        self._made: dict[str, x509.Certificate] = {}
        authority = _certificate(self._name, self._key.public_key(), self._name, self._key, ca=True)
        (directory / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))

    def paths(self, name: str) -> dict[str, str]:
        """`key`, `cert` and `ca`, as the Node.js programs take them."""
        key_file, file = self._directory / f"{name}.key", self._directory / f"{name}.pem"
        if name not in self._made:
            key = ec.generate_private_key(ec.SECP256R1())
            made = _certificate(_name(name), key.public_key(), self._name, self._key, ca=False)
            self._made[name] = made
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            key_file.write_bytes(pem)
            file.write_bytes(made.public_bytes(Encoding.PEM))
        return {"key": str(key_file), "cert": str(file), "ca": str(self._directory / "ca.pem")}

    def context(self, name: str) -> ssl.SSLContext:
        """For a client that shows the certificate `name` and trusts this authority alone."""
        paths = self.paths(name)
        context = ssl.create_default_context(cafile=paths["ca"])
        context.load_cert_chain(paths["cert"], paths["key"])
        return context

    def fingerprint(self, name: str) -> str:
        """SHA-256, as Node.js writes it."""
        return self._made[name].fingerprint(hashes.SHA256()).hex(":").upper()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
        .sign(signer, hashes.SHA256())
    )
