"""For tests of Grenache workers: a Directory in memory, certificates, sockets without a library on top."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import GrapeUnreachable


class MemoryDirectory:
    """A `ports.Directory` that notes announcements; fails them while `down`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.down = False
        self.announced = asyncio.Event()

    async def announce(self, service: str, port: int) -> int:
        self.calls.append((service, port))
        if self.down:
            raise GrapeUnreachable("down")
        self.announced.set()
        return 1

    async def withdraw(self, service: str, port: int) -> int:
        return 0

    async def lookup(self, service: str, *, fresh: bool = False) -> list[Address]:
        return [("127.0.0.1", port) for name, port in dict.fromkeys(self.calls) if name == service]

    async def put(self, value: bytes) -> str:
        raise NotImplementedError

    async def put_mutable(self, item: MutableItem) -> str:
        raise NotImplementedError

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Pair:
    """Paths of a PEM key and certificate, and the certificate's DER."""

    key: Path
    cert: Path
    ca: Path
    der: bytes


def make_certificates(directory: Path, *names: str) -> dict[str, Pair]:
    """Certificates for 127.0.0.1, all signed by one authority of their own."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("test authority")
    authority = _certificate(
        authority_name, authority_key.public_key(), authority_name, authority_key
    )
    ca = directory / "ca.pem"
    ca.write_bytes(authority.public_bytes(Encoding.PEM))
    pairs = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(_name(name), key.public_key(), authority_name, authority_key)
        key_path, cert_path = directory / f"{name}.key", directory / f"{name}.pem"
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        cert_path.write_bytes(certificate.public_bytes(Encoding.PEM))
        pairs[name] = Pair(key_path, cert_path, ca, certificate.public_bytes(Encoding.DER))
    return pairs


def server_context(pair: Pair, *, ask: bool = False) -> ssl.SSLContext:
    """`ask`: callers must show a certificate of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if ask:
        context.load_verify_locations(pair.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(pair: Pair, *, show: bool = False) -> ssl.SSLContext:
    """`show`: with a certificate of its own."""
    context = ssl.create_default_context(cafile=str(pair.ca))
    if show:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, public: Any, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    own = subject == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if own:  # without it Python 3.13 trusts no CA
        builder = builder.add_extension(
            x509.KeyUsage(
                **dict.fromkeys(
                    (
                        "digital_signature",
                        "content_commitment",
                        "key_encipherment",
                        "data_encipherment",
                        "key_agreement",
                        "encipher_only",
                        "decipher_only",
                    ),
                    False,
                ),
                key_cert_sign=True,
                crl_sign=True,
            ),
            critical=True,
        )
    else:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signer, hashes.SHA256())


class RawConnection:
    """A TCP connection spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = ""  # of the last answer

    @classmethod
    async def open(
        cls, address: Address, *, limit: int = 1 << 16, host: str | None = None
    ) -> RawConnection:
        """`host`: the address to come from."""
        local = None if host is None else (host, 0)
        return cls(*await asyncio.open_connection(*address, limit=limit, local_addr=local))

    async def http(
        self, body: bytes, *headers: str, start: str = "POST / HTTP/1.1"
    ) -> tuple[int, bytes]:
        """One request and its answer: status and body."""
        self.send_http(body, *headers, start=start)
        return await self.answer()

    def send_http(self, body: bytes, *headers: str, start: str = "POST / HTTP/1.1") -> None:
        self.writer.write(http_request(body, *headers, start=start))

    async def answer(self) -> tuple[int, bytes]:
        head = self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split(" ")[1])
        size = 0
        for line in head.lower().split("\r\n"):
            if line.startswith("content-length:"):
                size = int(line.partition(":")[2])
        return status, await self.reader.readexactly(size)

    async def upgrade(self, *headers: str) -> int:
        """Ask for a WebSocket; the status of the answer, 101 for yes."""
        self.writer.write(upgrade_request(*headers))
        answer = await self.reader.readuntil(b"\r\n\r\n")
        return int(answer.split(b" ")[1])

    def send_frame(self, payload: bytes, opcode: int = 1) -> None:
        """A masked frame, as a client must send it."""
        self.writer.write(masked_frame(payload, opcode))

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        head = await self.reader.readexactly(2)
        size = head[1]
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return head[0] & 0x0F, await self.reader.readexactly(size)

    async def ended(self) -> bool:
        """Waits for the other side to close; True, or fails by timeout."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> RawConnection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


@contextlib.contextmanager
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails when something is logged, or goes wrong in a task or callback of the event loop."""
    wrong: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    caplog.clear()
    try:
        yield
        gc.collect()  # a task that failed tells so when it is forgotten
        assert not wrong
        assert not caplog.records
    finally:
        loop.set_exception_handler(None)


async def until(check: Callable[[], object]) -> None:
    """Wait for something that nothing else tells; the test's time limit ends it."""
    for _ in range(10_000):
        if check():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen")


def request_body(key: str, payload: Any, rid: Any = "r1") -> bytes:
    return json.dumps([rid, key, payload]).encode()


def http_request(body: bytes, *headers: str, start: str = "POST / HTTP/1.1") -> bytes:
    head = [start, "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def upgrade_request(*headers: str) -> bytes:
    head = [
        "GET /ws HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def masked_frame(payload: bytes, opcode: int = 1) -> bytes:
    """A WebSocket frame as a client must send it."""
    mask = b"\x12\x34\x56\x78"
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + mask + masked
