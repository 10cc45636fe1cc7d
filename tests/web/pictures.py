"""The pictures of the page in docs/images: `python -m tests.web.pictures [--minutes 8]`.

Runs `exchange-node demo --open` for as long as it takes to have a few candles, and takes pictures of the
market view, light and dark.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.processes import ROOT, environment
from tests.web.browser import Pages, a_browser

IMAGES = ROOT / "docs" / "images"
PAGE = re.compile(r"page of node A: (http://\S+?)/$", re.MULTILINE)


@contextmanager
def the_demo(seed: int) -> Iterator[str]:
    """URL of the first node of a demo that runs until this is left."""
    command = [sys.executable, "-m", "node.cli.main", "demo", "--open", "--seed", str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
    ) as demo:
        try:
            assert demo.stdout is not None
            said = ""
            while (found := PAGE.search(said)) is None:
                line = demo.stdout.readline()
                assert line, said
                said += line
            yield found[1]
        finally:
            demo.send_signal(signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--into", type=Path, default=IMAGES)
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    with the_demo(asked.seed) as url, a_browser() as browser:
        pages = Pages(browser)
        time.sleep(asked.minutes * 60)
        for scheme in ("light", "dark"):
            page = pages.open(
                url, path="#/market/BTC-USD", width=1440, height=980, color_scheme=scheme
            )
            page.locator(".ladder tr.sell:not(.void)").nth(8).wait_for()
            for _ in range(7):
                page.get_by_role("button", name="zoom in").click()
            page.get_by_label("Price (USD)").fill(
                page.locator(".ladder tr.sell:not(.void) button.level").nth(6).inner_text()
            )
            page.get_by_label("Quantity (BTC)").fill("1.5")
            page.wait_for_timeout(1000)
            page.screenshot(path=asked.into / f"market-{scheme}.png")
        pages.close()
        assert pages.faults == [], pages.faults


if __name__ == "__main__":
    main()
