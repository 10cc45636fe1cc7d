"""The daemon: wires the rooms together; command line, HTTP API, demo."""

from importlib.metadata import version

VERSION = version("exchange-node")
