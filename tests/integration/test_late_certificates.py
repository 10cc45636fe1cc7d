"""Certificates that are read late are read: an https server is accepted or refused as without that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In another process: the contexts are made when aiohttp is imported, once in each.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from node.cli.heavy_imports import heavy_imports
with heavy_imports():
    import aiohttp
    from aiohttp import web
from node.daemon.process import loop_factory
from node.http.api_tls import self_signed

async def main():
    async def hello(request):
        return web.Response(text="hello")
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    tls = self_signed(Path(sys.argv[1]), ["127.0.0.1"])
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"https://127.0.0.1:{port}/") as response:
                print(await response.text())
    except aiohttp.ClientConnectorCertificateError:
        print("refused")
    finally:
        await runner.cleanup()

with asyncio.Runner(loop_factory=loop_factory()) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize(("trusted", "answer"), [(True, "hello"), (False, "refused")])
def test_an_https_server_is_checked_against_the_systems_certificates(
    trusted: bool, answer: str, tmp_path: Path
) -> None:
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    if trusted:
        environment["SSL_CERT_FILE"] = str(tmp_path / "api-cert.pem")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(tmp_path)},
        timeout=60,
    )
    assert (result.stdout.strip(), result.stderr) == (answer, "")
