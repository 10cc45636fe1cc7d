from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from p2p.base.errors import Code, RemoteProtocolError
from p2p.base.identity import Identity, node_id_of
from p2p.wire import tls

A, B = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A TLS handshake in memory; returns both ends."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = server.wrap_bio(to_server, to_client, server_side=True)
    right = client.wrap_bio(to_client, to_server)
    for _ in range(6):
        for end in (right, left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    # The server's verdict about the client's certificate reaches the client with its first read.
    left.write(b"x")
    assert right.read(1) == b"x"
    return left, right


def test_both_ends_learn_the_others_identity_key() -> None:
    server, client = shake(tls.server_context(A), tls.client_context(B))
    assert server.version() == "TLSv1.3"
    assert node_id_of(tls.peer_public_key(server)) == B.node_id
    assert node_id_of(tls.peer_public_key(client)) == A.node_id


def test_a_client_without_a_certificate_is_dropped() -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(A), bare)


def test_older_tls_is_not_spoken() -> None:
    old = tls.client_context(B)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(A), old)


def test_contexts_demand_certificates_and_check_no_names() -> None:
    for context in (tls.server_context(A), tls.client_context(A)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert not context.check_hostname
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert tls.server_context(A).num_tickets == 0


def test_certificates_depend_on_the_key_alone_and_outlive_every_clock_error() -> None:
    pem = tls.node_certificate(A)
    assert pem == tls.node_certificate(Identity.from_seed(bytes([1]) * 32))
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_before_utc.year == 2000
    assert certificate.not_valid_after_utc.year == 9999
    authority = x509.load_pem_x509_certificate(tls.authority_certificate())
    certificate.verify_directly_issued_by(authority)


def test_strict_verification_accepts_the_certificates() -> None:
    server, client = tls.server_context(A), tls.client_context(B)
    for context in (server, client):
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    shake(server, client)


def test_a_key_of_another_kind_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    der = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(RemoteProtocolError, match="not Ed25519") as caught:
        tls.certified_key(der)
    assert caught.value.code is Code.WRONG_IDENTITY


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        tls.certified_key(b"nonsense")
    assert caught.value.code is Code.WRONG_IDENTITY


def test_no_key_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[tuple[int, bytes]] = []
    load = ssl.SSLContext.load_cert_chain

    def watching(context: ssl.SSLContext, certfile: str, password: bytes) -> None:
        path = Path(certfile)
        seen.append((path.stat().st_mode & 0o777, path.read_bytes()))
        load(context, certfile, password=password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watching)
    tls.server_context(A)
    ((mode, content),) = seen
    assert mode == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in content
    assert list(tmp_path.iterdir()) == []
