"""Sessions for contributors: `nox -l` lists them, `nox -s quick` is the inner loop.

Everything is installed into environments of nox's own, with the versions of `tests/requirements.lock`.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "quick"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13"]  # the ones that are not installed are left out
LOCK = ("-c", "tests/requirements.lock")


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, format and the rules of import."""
    session.install(*LOCK, "-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy in strict mode."""
    session.install(*LOCK, "-e", ".[test]")
    session.run("mypy")


@nox.session
def quick(session: nox.Session) -> None:
    """Unit tests without processes, demos and long property tests: about two minutes on two cores."""
    session.install(*LOCK, "-e", ".[test]")
    session.run("pytest", "-n", "2", "-m", "not process and not slow", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests on each Python that is installed; arguments after `--` go to pytest."""
    session.install(*LOCK, "-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run the benchmarks, each next to a peer: `nox -s benchmarks -- book --quick`."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write docs/settings.md and .env.example from the schema of the settings."""
    session.install("-e", ".")
    session.run("python", "-m", "config.settings_docs")


@nox.session
def changelog(session: nox.Session) -> None:
    """Move the notes in `changes/` into CHANGELOG.md: `nox -s changelog -- 0.2.0`."""
    session.install("towncrier>=24.8")
    session.run("towncrier", "build", "--yes", "--version", *session.posargs)
