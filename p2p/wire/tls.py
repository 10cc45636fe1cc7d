"""TLS 1.3 between strangers, with each certificate's key being the node's identity.

The standard `ssl` module has no way to say "accept any certificate, I look at its key myself": a server
that asks for a client's certificate drops the ones it has no authority for. So there is a *network
authority* whose private key is **public on purpose** (it is derived from a constant below). Anyone
can use it to sign: a certificate signed by it proves nothing and grants nothing. It only lets the
library get as far as it must: the TLS 1.3 handshake then proves that the peer holds the private key
of its certificate, and the node id follows from that key (`p2p.base.identity.node_id_of`). That
comparison is the whole of the authentication, and the caller makes it (`p2p.wire.handshake`).

There is no host name check (nodes have no names), no session resumption (every link proves its key
anew), and no version below 1.3, whose handshake also hides the certificates from onlookers.
Certificates are a pure function of the key and valid for ever, so that a wrong clock does not
exclude a node.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.base.errors import Code, RemoteProtocolError
from p2p.base.identity import Identity, node_id_of

# Public on purpose, see above.
_AUTHORITY_SEED = hashlib.sha256(
    b"exchange-node network authority: public, grants no trust"
).digest()
_AUTHORITY_NAME = "exchange-node network authority (public, grants no trust)"

_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 4.1.2.5: no expiry


def server_context(identity: Identity) -> ssl.SSLContext:
    """Make the TLS context for accepting links: shows `identity`, demands a certificate of the peer.

    Raises:
        OSError: no temporary file could be written.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0  # no resumption: nothing to keep for a stranger
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """Make the TLS context for dialling: shows `identity`, demands a certificate of the peer.

    Raises:
        OSError: no temporary file could be written.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity)


def peer_public_key(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """Return the raw Ed25519 key whose possession the peer proved in the TLS handshake.

    Raises:
        RemoteProtocolError: `wrong_identity`; its certificate is missing or has a key of another kind.
    """
    der = connection.getpeercert(binary_form=True)
    if der is None:
        raise RemoteProtocolError(Code.WRONG_IDENTITY, "no certificate was shown")
    return certified_key(der)


def certified_key(der: bytes) -> bytes:
    """Return the raw Ed25519 key in a certificate. Raises as `peer_public_key`."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except Exception as error:  # the parser raises many kinds on strange certificates
        raise RemoteProtocolError(
            Code.WRONG_IDENTITY, f"the certificate cannot be read: {error}"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise RemoteProtocolError(
            Code.WRONG_IDENTITY, f"the certificate's key is not Ed25519 but {type(key).__name__}"
        )
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def authority_certificate() -> bytes:
    """Return the network authority's certificate, PEM: the same on every node."""
    key = _authority_key()
    name = _name(_AUTHORITY_NAME)
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return builder.sign(key, None).public_bytes(Encoding.PEM)


def node_certificate(identity: Identity) -> bytes:
    """Return the certificate of a node, PEM: the same for the same key."""
    authority = _authority_key()
    public = identity.private_key.public_key()
    digest = hashlib.sha256(identity.public_key).digest()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(node_id_of(identity.public_key)))
        .issuer_name(_name(_AUTHORITY_NAME))
        .public_key(public)
        .serial_number(int.from_bytes(digest[:16], "big") | 1 << 127)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
    )
    return builder.sign(authority, None).public_bytes(Encoding.PEM)


def _context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority_certificate().decode("ascii"))
    _load_chain(context, identity)
    return context


def _load_chain(context: ssl.SSLContext, identity: Identity) -> None:
    """Give the context the node's key. The `ssl` module takes keys from files only: the file has mode
    0600, is encrypted with a password that exists only here, and is removed before this returns."""
    password = secrets.token_bytes(32).hex().encode("ascii")
    pem = identity.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )
    descriptor, name = tempfile.mkstemp(prefix="exchange-node-", suffix=".pem")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem + node_certificate(identity))
        context.load_cert_chain(name, password=password)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _authority_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_AUTHORITY_SEED)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
