"""Certificates of the API: the operator's, the node's own, and whom a client accepts."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from trading_kit import running_api

from node.cli.client_session import BlockingTransport
from node.client.exchange_client import (
    ApiTransport,
    ExchangeClient,
    NodeUnreachable,
    NotANode,
    PooledTransport,
    UntrustedNode,
)
from node.client.server_trust import Trust
from node.http.api_tls import Tls, TlsError, load_tls, self_signed


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return self_signed(tmp_path_factory.mktemp("tls"), ["exchange.example"])


def test_the_nodes_own_certificate_is_kept_and_its_key_is_secret(tls: Tls) -> None:
    directory = tls.certificate.parent
    assert self_signed(directory, ["exchange.example"]).fingerprint == tls.fingerprint
    assert {"localhost", "127.0.0.1", "exchange.example"} <= tls.names
    assert stat.S_IMODE((directory / "api-key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["api-cert.pem", "api-key.pem"]


def test_a_damaged_certificate_of_its_own_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "api-cert.pem").write_text("nonsense")
    assert "localhost" in self_signed(tmp_path, []).names


def test_unusable_files_are_reported_by_name(tls: Tls, tmp_path: Path) -> None:
    key = tls.certificate.with_name("api-key.pem")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other", []).certificate.with_name("api-key.pem")
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "none.pem", key, "API_TLS_CERT: cannot read .*none.pem: No such file"),
        (text, key, "API_TLS_CERT: .*text.pem is not a certificate in PEM form"),
        (tls.certificate, tmp_path / "none.key", "API_TLS_KEY: cannot read .*none.key"),
        (tls.certificate, text, "API_TLS_KEY: .*text.pem has no private key in PEM form"),
        (tls.certificate, None, "API_TLS_KEY: .*api-cert.pem has no private key in PEM form"),
        (tls.certificate, other, "API_TLS_KEY: the key in .* is not that of the certificate"),
    ]
    for certificate, wrong, message in cases:
        with pytest.raises(TlsError, match=message):
            load_tls(certificate, wrong)


def transports(trust: Trust) -> list[ApiTransport]:
    return [BlockingTransport(trust=trust), PooledTransport(trust=trust)]


async def ask(url: str, transport: ApiTransport) -> None:
    async with ExchangeClient(url, transport=transport) as client:
        await client.halts()


async def test_only_trusted_servers_are_used(tls: Tls, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = self_signed(elsewhere, [])
    async with running_api(tmp_path / "journal", tls=tls) as api:

        async def tried(transport: ApiTransport) -> str:
            if isinstance(transport, BlockingTransport):  # it would hold up the server's loop
                work = asyncio.to_thread(asyncio.run, ask(api.url, transport))
            else:
                work = ask(api.url, transport)
            try:
                await work
            except (UntrustedNode, NotANode, NodeUnreachable) as error:
                return type(error).__name__
            return "served"

        for trust, outcome in (
            (Trust(ca_file=tls.certificate), "served"),
            (Trust(fingerprint=tls.fingerprint), "served"),
            (Trust(), "UntrustedNode"),
            (Trust(ca_file=other.certificate), "UntrustedNode"),
            (Trust(fingerprint=other.fingerprint), "UntrustedNode"),
        ):
            assert [await tried(t) for t in transports(trust)] == [outcome] * 2, trust


def test_a_final_dot_of_a_configured_name_is_not_in_the_certificate(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ["Node.Example.org."])
    assert "node.example.org" in made.names
    assert self_signed(tmp_path, ["node.example.org"]).fingerprint == made.fingerprint
