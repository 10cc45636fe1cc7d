"""The HTTP API of a node: REST, WebSocket stream and their OpenAPI document."""

from node.api.api_server import ApiServer, make_application

__all__ = ["ApiServer", "make_application"]
