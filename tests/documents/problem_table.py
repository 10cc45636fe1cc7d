"""`python -m tests.documents.problem_table`: write the codes of the API into docs/troubleshooting.md."""

from __future__ import annotations

from typing import Final

from node.api.problems import CODES
from tests.documents.examples import ROOT

PAGE: Final = ROOT / "docs" / "troubleshooting.md"
BEGIN: Final = "<!-- codes -->\n"
END: Final = "<!-- /codes -->"


def table() -> str:
    """The codes as a table, in alphabetical order."""
    rows = [f"| `{code}` | {title} | {text} |" for code, (title, text) in sorted(CODES.items())]
    return "\n".join(["| code | title | meaning and cure |", "|---|---|---|", *rows]) + "\n"


def written(page: str) -> str:
    """The page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
