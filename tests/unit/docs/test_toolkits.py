"""Examples in docs/toolkits.md run, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "toolkits.md"
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_example_shows_its_output() -> None:
    assert len(EXAMPLES) == PAGE.read_text().count("```python")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_prints_the_output_of_the_page(number: int) -> None:
    code, output = EXAMPLES[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"toolkits.md, example {number + 1}", "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == output
