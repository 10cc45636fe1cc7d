"""The version that is installed. Not in `node` itself: client commands do not pay for looking it up."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

VERSION: Final = version("exchange-node")
