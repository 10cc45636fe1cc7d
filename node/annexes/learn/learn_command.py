"""`learn`: the course of docs/learn, a step at a time."""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap

import click

from node.annexes.learn.course import STEPS, CourseStep, Page, UnknownSetting, find_step, read_page
from node.annexes.learn.sheet import Sheet
from node.cli.client_session import CommandFailure, Exit, print_json


@click.command(short_help="A course: gossip, breakers, throttling, with figures.")
@click.argument("step", required=False, metavar="[STEP]")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another run.")
@click.option(
    "--set",
    "changes",
    metavar="NAME=VALUE",
    multiple=True,
    help="Change a setting of the step; the list shows them.",
)
@click.option("--answer", is_flag=True, help="Show the answer to the step's question too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def learn(
    step: str | None, seed: int, changes: tuple[str, ...], answer: bool, as_json: bool
) -> int:
    """List the steps of the course, or run one.

    STEP is a number or a name from the list. Each step runs this program's own classes in virtual time
    and prints figures, which are the same for the same seed, beside the range that its page promises. Exit
    code 1 if a figure is outside.

    \b
    Examples:
      exchange-node learn                            the list
      exchange-node learn 7                          gossip
      exchange-node learn gossip --seed 5
      exchange-node learn 7 --set links=2            change one thing, and look again
      exchange-node learn 7 --answer
      exchange-node learn 7 --json
    """
    if step is None:
        if changes or answer:
            raise click.UsageError("--set and --answer need a step, e.g. 'exchange-node learn 7'.")
        _list(as_json)
        return Exit.OK
    found = find_step(step.lower())
    if found is None:
        names = [one.slug for one in STEPS]
        close = difflib.get_close_matches(step.lower(), names, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise CommandFailure(
            f"There is no step {step!r}.{hint} There are 1 to {len(STEPS)}; 'exchange-node learn' lists them.",
            Exit.USAGE,
        )
    settings = _settings(changes)
    try:
        sheet = found.run(seed, settings)
    except UnknownSetting as error:
        raise CommandFailure(f"--set: {error}", Exit.USAGE) from None
    page = read_page(found)
    kept = _kept(page, settings, sheet)
    if as_json:
        print_json(_document(found, page, seed, settings, sheet, kept))
    else:
        _show(found, page, sheet, settings, kept, answer)
    return Exit.OK if all(kept.values()) else Exit.REFUSED


def _settings(changes: tuple[str, ...]) -> dict[str, float]:
    settings = {}
    for text in changes:
        name, _, value = text.partition("=")
        if not re.fullmatch(r"\d+(\.\d+)?", value):
            raise CommandFailure(f"--set {text!r}: must be NAME=NUMBER, e.g. nodes=10", Exit.USAGE)
        settings[name.strip()] = float(value)
    return settings


def _kept(page: Page, settings: dict[str, float], sheet: Sheet) -> dict[str, bool]:
    """Compare figures with the page; empty if the page promises nothing for these settings."""
    if settings and settings != page.change:
        return {}
    kept = {}
    for promise in page.promises:
        low, high = promise.range(bool(settings))
        value = sheet.figures.get(promise.figure)
        kept[promise.figure] = value is not None and low <= value <= high
    return kept


def _list(as_json: bool) -> None:
    pages = [(step, read_page(step)) for step in STEPS]
    if as_json:
        rows = [
            {"step": s.number, "name": s.slug, "title": p.title, "settings": dict(s.settings)}
            for s, p in pages
        ]
        print_json({"steps": rows})
        return
    for step, page in pages:
        if step.number in (1, 11):
            part = "Routing and gossip" if step.number == 1 else "Throttling"
            click.secho(f"{part}", bold=True)
        settings = " ".join(f"{name}={value:g}" for name, value in step.settings.items())
        click.echo(f"  {step.number:>2}  {step.slug:<20} {page.title:<44} {settings}")
    click.echo("\nRun one: exchange-node learn 1     change a setting: --set NAME=VALUE")
    click.echo("Around a client of your own: python -m node.annexes.learn.drop_in")


def _show(
    step: CourseStep,
    page: Page,
    sheet: Sheet,
    settings: dict[str, float],
    kept: dict[str, bool],
    answer: bool,
) -> None:
    click.secho(f"{step.number}. {page.title}", bold=True)
    click.echo(f"\n{_plain(page.intro)}\n")
    for line in sheet.lines:
        click.echo(f"  {line}".rstrip())
    _figures(page, sheet, settings, kept)
    if settings:
        return
    for name in ("Files", "Change", "Question"):
        click.secho(f"\n{name}", bold=True)
        click.echo(_plain(page.sections.get(name, "")))
    if answer:
        click.secho("\nAnswer", bold=True)
        click.echo(_plain(page.sections.get("Answer", "")))
    else:
        click.echo(f"\nThe answer: exchange-node learn {step.number} --answer")


def _figures(page: Page, sheet: Sheet, settings: dict[str, float], kept: dict[str, bool]) -> None:
    click.echo()
    promised = {promise.figure: promise for promise in page.promises}
    for name, value in sheet.figures.items():
        promise = promised.get(name)
        line = f"  {name:<26} {value:>10g}"
        if promise is None:
            click.echo(line)
            continue
        line += f"   {promise.meaning}"
        if name in kept:
            low, high = promise.range(bool(settings))
            mark = "as promised" if kept[name] else "OUTSIDE what is promised"
            line += f" ({mark}: {low:g} to {high:g})"
        click.echo(line)
    if not kept:
        click.echo("  (the page promises nothing for these settings)")


def _plain(markdown: str) -> str:
    """Return Markdown as text for a terminal."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", markdown).replace("`", "").replace("**", "")
    width = min(100, shutil.get_terminal_size().columns)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  " if line.startswith("- ") else "")
        for line in text.splitlines()
    )


def _document(
    step: CourseStep,
    page: Page,
    seed: int,
    settings: dict[str, float],
    sheet: Sheet,
    kept: dict[str, bool],
) -> dict[str, object]:
    ranges = {p.figure: p.range(bool(settings)) for p in page.promises if p.figure in kept}
    return {
        "step": step.number,
        "name": step.slug,
        "title": page.title,
        "seed": seed,
        "settings": {**step.settings, **settings},
        "figures": sheet.figures,
        "promised": {name: list(span) for name, span in ranges.items()},
        "kept": all(kept.values()),
        "lines": sheet.lines,
    }
