"""Step 17: what each part gives in an existing system, in order of adoption; shadow mode and canaries."""

from __future__ import annotations

from node.annexes.learn.sheet import Settings, Sheet
from node.annexes.learn.throttling import HEADER, ORDER, Adopted, restart
from node.virtual import components

RISKS = {
    "token bucket": "low: delay; too low a rate delays everything",
    "warm-up": "low: a slower start",
    "backoff": "medium: replaces retry logic that exists; both together multiply",
    "circuit breaker": "medium: can shut out a healthy server; alert on it",
    "sliding window": "low: measures only",
    "AIMD": "medium: changes the rate; only with metrics and an alert",
}


def adoption(seed: int, settings: Settings) -> Sheet:
    """Step 17."""
    sheet = Sheet()
    found = [restart(seed, Adopted(parts)) for parts in range(len(ORDER) + 1)]
    rows = [found[0].row("nothing")]
    rows += [result.row(f"+ {name}") for name, result in zip(ORDER, found[1:], strict=True)]
    sheet.text("The same restart, one more part in each row:")
    sheet.table(HEADER, rows)
    sheet.text()
    sheet.text("Risk of each part:")
    for name, risk in RISKS.items():
        sheet.text(f"  {name:<16} {risk}")
    sheet.text()
    shadow, canary = components.shadow(seed), components.canary(seed)
    for part in (shadow, canary):
        sheet.text(f"{part.name}: {part.what}")
        for line in part.lines:
            sheet.text(f"  {line}")
    sheet.text()
    percent = min(100.0, settings["percent"])
    mixed = restart(seed, Adopted(len(ORDER)), share=percent / 100)
    sheet.text("The restart again while only some of the clients have all parts:")
    sheet.table(HEADER, [mixed.row(f"{percent:g} % of clients"), found[-1].row("all clients")])
    sheet.figure("burst_nothing", found[0].burst, 0)
    sheet.figure("burst_token_bucket", found[1].burst, 0)
    sheet.figure("error_share_nothing", found[0].error_share)
    sheet.figure("error_share_all_parts", found[-1].error_share)
    sheet.figure("lost_nothing", found[0].lost, 0)
    sheet.figure("lost_all_parts", found[-1].lost, 0)
    sheet.figure("would_wait", float(shadow.figures["would_wait"]), 0)
    sheet.figure("clients_in_canary", float(canary.figures["at_10_percent"]), 0)
    sheet.figure("delivered_in_part", mixed.delivered, 0)
    return sheet
