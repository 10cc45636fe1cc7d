"""Settings of the exports."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlsplit

from config.section import Section, field
from config.setting_types import PasswordUrl, PostgresUrl, Whole
from config.settings import Settings


class NatsUrl(PasswordUrl):
    """Addresses of NATS servers of one cluster, separated by commas, or empty."""

    expected = (
        "an address such as nats://user:password@host:4222, several separated by commas, or empty"
    )
    schemes: ClassVar = ("nats", "tls")

    def check(self, text: str) -> None:
        for part in text.split(","):
            super().check(part.strip())
            if not urlsplit(part.strip()).hostname:
                raise ValueError

    def text(self, value: Any) -> str:
        return ",".join(self.hide(part.strip()) for part in str(value).split(","))


class PostgresSection(Section):
    title = "Node"
    rank = 2

    export_postgres: str = field(
        PostgresUrl(),
        "",
        "PostgreSQL database that gets a copy of what the journal holds (docs/export.md); needs the extra "
        "`[postgres]`.",
    )
    export_keep: int = field(
        Whole(0, 36_500, unit="days"),
        0,
        "Days for which the database keeps fills, postings and public trades, in whole months; 0: for good; "
        "of nodes that share a database the smallest counts.",
    )


class NatsSection(Section):
    title = "Node"
    rank = 5

    export_nats: str = field(
        NatsUrl(),
        "",
        "NATS servers, separated by commas, that get a copy of what the journal holds and public market "
        "data (docs/bus.md); needs the extra `[nats]`.",
    )
    export_nats_kept: int = field(
        Whole(16, 1_000_000, unit="MiB"),
        1024,
        "Size of each of the two streams that the export creates in NATS; older messages are dropped.",
    )
    export_log_kept: int = field(
        Whole(64, 1_000_000, unit="MiB"),
        1024,
        "Most log that is kept for a database or bus that is away; beyond it the archive catches it up.",
    )


class ExportSettings(Settings, PostgresSection, NatsSection):
    """Settings of a node with exports."""
