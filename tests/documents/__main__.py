"""`python -m tests.documents [FILE ...] [--write]`: type the examples of the documents, and compare.

`--write` puts what was printed in the place of what differs. Exit 1 when something differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from node.daemon.progress import Progress
from tests.documents.examples import ROOT, agrees, documents, examples, instruments, with_outputs
from tests.documents.typing_person import type_all, typists


def check(path: Path, *, write: bool = False) -> list[str]:
    """Type a document's examples from a fresh start; returns what differs."""
    text = path.read_text("utf-8")
    typed = examples(text)
    if not typed:
        return []
    names = sorted({example.node for example in typed} | {"A"})
    wrong, printed = [], []
    progress = Progress(f"{path.name}: {len(typed)} examples")
    with (
        TemporaryDirectory(prefix="documents-") as scratch,
        typists(names, Path(scratch), instruments(text)) as found,
    ):
        for number, (example, code, output) in enumerate(type_all(found, typed)):
            progress.update(number / len(typed))
            printed.append((example, output))
            where = f"{path.relative_to(ROOT)}:{example.line + 1}: $ {example.command}"
            if not example.shown and code != 0:
                wrong.append(f"{where}\nended with {code}:\n{output}")
            elif not agrees(example.shown, output):
                shown = "\n".join(example.shown)
                wrong.append(f"{where}\nshows:\n{shown}\nprinted:\n{output}")
    progress.end()
    if write:
        path.write_text(with_outputs(text, printed), "utf-8")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.documents", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="none: all")
    parser.add_argument("--write", action="store_true", help="correct the outputs in the documents")
    arguments = parser.parse_args()
    wrong = []
    for path in arguments.files or documents():
        wrong += check(path.resolve(), write=arguments.write)
    print("\n\n".join(wrong) if wrong else "all examples print what the documents show")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
