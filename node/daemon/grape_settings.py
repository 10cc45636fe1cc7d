"""The DHT node that the settings ask for, in a node or alone (`exchange-node grape`)."""

from __future__ import annotations

from typing import Any

from config import Settings
from p2p.grenache.grape.grape_settings import GrapeSettings


def grape_settings(settings: Settings, **more: Any) -> GrapeSettings:
    """`more`: what the settings do not say, or say otherwise (a port to try)."""
    given: dict[str, Any] = {
        "host": settings.grape_host,
        "port": settings.grape_dht_port,
        "bootstrap": tuple((host, port) for host, port in settings.grape_bootstrap),
        "peer_max_age": settings.grape_peer_max_age_s,
        "concurrency": settings.grape_concurrency,
        "public_host": settings.grape_public_host or None,
        "bep42": settings.grape_bep42,
    }
    return GrapeSettings(**{**given, **more})
