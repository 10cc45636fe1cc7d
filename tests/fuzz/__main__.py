"""`python -m tests.fuzz TARGET --minutes 60`: fuzz one target with coverage guidance (atheris, libFuzzer).

Without TARGET all are listed. What is found is written to `crash-...` in the working directory; run it again with
`python -m tests.fuzz TARGET FILE`. New inputs that reach new code go to the directory of `--corpus`, by
default a temporary one; `--keep` runs nothing new but adds the shortest of them that reach more code to
tests/fuzz/corpus, whose inputs every test run reads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus_choice import keep
from tests.fuzz.targets import NAMES, load

CORPUS = Path(__file__).with_name("corpus")
MAX_LENGTH = 4096


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run once instead")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default 1)")
    parser.add_argument("--corpus", type=Path, help="directory for inputs that reach new code")
    parser.add_argument(
        "--keep", action="store_true", help="add the best of --corpus to those kept"
    )
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer (default 0: random)")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.target is None:
        print("\n".join(NAMES))
        return 0
    if args.files:
        target = load(args.target)
        for file in args.files:
            target.run(file.read_bytes())
            print(f"{file}: nothing found")
        return 0
    if args.keep:
        if args.corpus is None:
            raise SystemExit("--keep needs --corpus: the directory of the inputs to choose from")
        target = load(args.target)
        count = keep(target.run, target.seeds(), args.corpus, CORPUS / args.target)
        print(f"{count} inputs added to {CORPUS / args.target}")
        return 0
    import atheris  # only here: inputs of the corpus run without it

    with atheris.instrument_imports(include=["config", "exchange", "node", "p2p"]):
        target = load(args.target)
    kept = CORPUS / args.target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        found = args.corpus or Path(scratch)
        found.mkdir(parents=True, exist_ok=True)
        switches = [f"-max_total_time={int(60 * args.minutes)}", f"-max_len={MAX_LENGTH}"]
        if args.seed:
            switches.append(f"-seed={args.seed}")
        for number, seed in enumerate(target.seeds()):
            (found / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *switches, str(found), str(kept)], target.run)
        atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
