"""The daemon: wires the rooms together; command line, HTTP API, demo."""
