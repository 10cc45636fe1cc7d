"""TLS for the API: the operator's certificate, or a self-signed one of the node.

Clients get the file of a self-signed certificate (`--api-cafile`); commands on
the same machine find its fingerprint in node.json and accept that certificate alone.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2p.ground.durable_file import replace_file

LIFETIME: Final = timedelta(days=3650)
_BACKDATED: Final = timedelta(days=1)  # for clients whose clock is behind

# OpenSSL's errors for a key that is not the certificate's: the same kind of key, or another one.
_OTHER_KEY: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class TlsError(Exception):
    """A certificate or key cannot be used. The message names the file, the reason and the
    remedy."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS material of the server."""

    context: ssl.SSLContext
    certificate: Path
    fingerprint: str  # SHA-256 of the certificate, hex
    names: frozenset[str]  # host names and addresses that the certificate is for, lower case


def load_tls(certificate: Path, key: Path | None) -> Tls:
    """A certificate (with its chain, if it has one) and its key, from PEM files. Without `key` it is
    in the certificate's file.

    Raises:
        TlsError: they cannot be used.
    """
    leaf = _read_certificate(certificate)
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise TlsError(
            f"API_TLS_CERT: the certificate in {certificate} was valid until "
            f"{leaf.not_valid_after_utc:%Y-%m-%d}; get a new one"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # OpenSSL would request a password at the terminal, which may be unattended.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason in _OTHER_KEY:
            why = f"the key in {key or certificate} is not that of the certificate {certificate}"
        else:
            why = (
                f"{key or certificate} has no private key in PEM form without a password "
                f"({error.reason or error})"
            )
        raise TlsError(f"API_TLS_KEY: {why}") from None
    except OSError as error:
        raise TlsError(f"API_TLS_KEY: cannot read {key}: {error.strerror or error}") from None
    fingerprint = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest()
    return Tls(context, certificate, fingerprint, _names(leaf))


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsError(f"API_TLS_CERT: cannot read {path}: {error.strerror or error}") from None
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise TlsError(
            f"API_TLS_CERT: {path} is not a certificate in PEM form (it begins with "
            "-----BEGIN CERTIFICATE-----)"
        ) from None


def _names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    names = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    return frozenset(name.lower().rstrip(".") for name in [*names, *map(str, addresses)])


def self_signed(directory: Path, hosts: Iterable[str]) -> Tls:
    """The certificate that the node has made for itself in `directory`; made now, if there is none
    that is still valid for all `hosts`.

    Raises:
        TlsError: the files cannot be written, or not be used.
    """
    certificate, key = directory / "api-cert.pem", directory / "api-key.pem"
    wanted = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()}
    wanted |= {host.lower().rstrip(".") for host in hosts if host not in ("0.0.0.0", "::")}
    try:
        present = load_tls(certificate, key)
    except TlsError:
        present = None
    if present is not None and wanted <= present.names:
        return present
    try:
        _make(certificate, key, sorted(wanted))
    except OSError as error:
        raise TlsError(f"cannot write {error.filename}: {error.strerror}") from None
    return load_tls(certificate, key)


_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _make(certificate: Path, key: Path, hosts: list[str]) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exchange-node")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, hosts))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # From Python 3.13 on clients check strictly what RFC 5280 requires of a CA: the rest of this.
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )
    replace_file(
        key,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    replace_file(certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
