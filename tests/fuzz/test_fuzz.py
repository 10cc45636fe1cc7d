"""The fuzzers in short: the inputs that are kept, and some seconds of new ones for each target."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS
from tests.fuzz.corpus_choice import keep
from tests.fuzz.targets import NAMES, load

ROOT = Path(__file__).parents[2]
SECONDS = 1
MUTATIONS = 60


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_are_kept_find_nothing(name: str) -> None:
    target = load(name)
    inputs = [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]
    assert inputs
    for data in inputs:
        target.run(data)
    # Without atheris as well: parts of them altered, cut and joined.
    rng = random.Random(f"fuzz {name}")
    for _ in range(MUTATIONS):
        target.run(mutated(rng, inputs))


def mutated(rng: random.Random, inputs: list[bytes]) -> bytes:
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                data = data[:at] + bytearray(rng.choice(inputs))
    return bytes(data[:4096])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform"
)
@pytest.mark.parametrize("name", NAMES)
def test_seconds_of_new_inputs_find_nothing(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, "--minutes", str(SECONDS / 60)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    text = ended.stderr.decode(errors="replace")
    assert ended.returncode == 0, text[-3000:]
    assert "Done" in text


def test_inputs_are_kept_when_they_reach_more_than_shorter_ones(tmp_path: Path) -> None:
    found, kept = tmp_path / "found", tmp_path / "kept"
    found.mkdir()
    target = load("framing")
    whole = max(target.seeds(), key=len)
    for number, data in enumerate((b"", whole, whole + b"\x00", b"\x00")):
        (found / str(number)).write_bytes(data)
    assert keep(target.run, [], found, kept) > 0
    first = {path.read_bytes() for path in kept.iterdir()}
    assert first < {b"", b"\x00", whole, whole + b"\x00"}
    assert keep(target.run, [], found, kept) == 0
    assert {path.read_bytes() for path in kept.iterdir()} == first
