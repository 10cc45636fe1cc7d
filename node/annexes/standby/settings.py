"""Settings of the standby."""

from __future__ import annotations

from typing import Literal

from config.section import field
from config.setting_types import Choice, HostPort, HostPorts, NodeIds, PostgresUrl
from config.settings import Settings


class StandbySettings(Settings):
    title = "Node"
    rank = 4

    standby_listen: tuple[HostPort, ...] = field(
        HostPorts(),
        (),
        "Address at which the node accepts its standby (docs/standby.md); empty without one.",
    )
    standby_allow: tuple[str, ...] = field(
        NodeIds(),
        (),
        "Id of the machine that may be this node's standby and get its journal and key, as `exchange-node "
        "standby` prints it.",
    )
    standby_ack: Literal["both", "first"] = field(
        Choice(("both", "first")),
        "both",
        "`both`: nothing leaves the node before its standby has it on the disk; `first`: the standby may lack the "
        "last orders.",
    )
    lease_postgres: str = field(
        PostgresUrl(),
        "",
        "PostgreSQL database, on a third machine, that says which of two machines is the node: lets the standby take "
        "over by itself (docs/standby.md); needs the extra `[postgres]`.",
    )
