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

PATH = "#/market/BTC-USD/you"  # the traders cancel orders of the house
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


def place_own(pages: Pages, url: str) -> None:
    """Place an order on each side, at the outermost level on show: traders take it last."""
    page = pages.open(url, path=PATH)
    for side in ("sell", "buy"):
        rows = page.locator(f".ladder tr.{side}:not(.void) button.level")
        rows.nth(4).wait_for()
        at = 0 if side == "sell" else rows.count() - 1  # asks are above, the best one last
        price = rows.nth(at).inner_text()
        page.keyboard.press("Escape")
        page.keyboard.press("b" if side == "buy" else "s")
        page.get_by_label("Quantity (BTC)").fill("0.25")
        page.get_by_label("Price (USD)").fill(price)
        page.get_by_label("Post-only").check()
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
    page.close()


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
        place_own(pages, url)
        for scheme in ("light", "dark"):
            page = pages.open(url, path=PATH, width=1440, height=980, color_scheme=scheme)
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
