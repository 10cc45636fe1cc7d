"""Certificates of the API: the operator's, the node's own, and whom a client accepts."""

from __future__ import annotations

import asyncio
import shutil
import ssl
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


def test_another_certificate_is_made_for_another_name(tmp_path: Path) -> None:
    first = self_signed(tmp_path, ["10.0.0.1"])
    again = self_signed(tmp_path, ["10.0.0.1", "new.example", "0.0.0.0"])
    assert again.fingerprint != first.fingerprint
    assert {"10.0.0.1", "new.example"} <= again.names
    assert "0.0.0.0" not in again.names


def test_a_damaged_certificate_of_its_own_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "api-cert.pem").write_text("nonsense")
    assert "localhost" in self_signed(tmp_path, []).names


def test_certificate_and_key_may_be_one_file(tls: Tls, tmp_path: Path) -> None:
    key = tls.certificate.with_name("api-key.pem")
    both = tmp_path / "both.pem"
    both.write_bytes(tls.certificate.read_bytes() + key.read_bytes())
    assert load_tls(both, None).fingerprint == tls.fingerprint


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


@pytest.mark.parametrize("dotted", ["localhost.", "LOCALHOST."])
async def test_a_final_dot_changes_nothing_about_a_certificate(
    tls: Tls, tmp_path: Path, dotted: str
) -> None:
    trust = Trust(ca_file=tls.certificate)
    async with running_api(tmp_path / "journal", tls=tls) as api:
        url = api.url.replace("127.0.0.1", dotted)
        await ask(url, PooledTransport(trust=trust))
        await asyncio.to_thread(asyncio.run, ask(url, BlockingTransport(trust=trust)))


def test_a_final_dot_of_a_configured_name_is_not_in_the_certificate(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ["Node.Example.org."])
    assert "node.example.org" in made.names
    assert self_signed(tmp_path, ["node.example.org"]).fingerprint == made.fingerprint


async def test_names_of_the_certificate_are_names_of_the_api(tls: Tls, tmp_path: Path) -> None:
    async with running_api(tmp_path / "journal", tls=tls) as api:
        context = ssl.create_default_context(cafile=tls.certificate)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
        port = api.url.rpartition(":")[2]

        async def status(host: str) -> int:
            headers = {"Host": f"{host}:{port}"}
            async with api.session.get(
                f"{api.url}/v1/halts", headers=headers, ssl=context
            ) as answer:
                return answer.status

        assert await status("exchange.example") == 200
        assert await status("exchange.example.") == 200
        assert await status("evil.example") == 403


def test_a_key_that_others_may_read_is_still_the_operators_business(
    tls: Tls, tmp_path: Path
) -> None:
    """Servers of certificates give their groups access to keys; the node does not judge that."""
    key = tmp_path / "key.pem"
    shutil.copy(tls.certificate.with_name("api-key.pem"), key)
    key.chmod(0o640)
    assert load_tls(tls.certificate, key).fingerprint == tls.fingerprint
