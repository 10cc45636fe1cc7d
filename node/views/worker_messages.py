"""Messages between a node and a worker process attached to it (`exchange-node worker`), in msgpack.

worker                                      node
attach: service, workers             ->
                                     <-     attached: the node's id; or refused, and the end
                                     <-     serve: id, payload, caller, timeout
served: id, result                   ->
                                     <-     dropped: id (the caller has given up)
"""

from __future__ import annotations

from typing import Final

import msgspec

WORKER_PATH: Final = "/v1/worker"
MAX_MESSAGE: Final = 4 << 20  # bytes; a call between nodes is smaller
NIL: Final = msgspec.Raw(b"\xc0")


class Attach(msgspec.Struct, tag="attach"):
    """Offer `service` to the network as long as the connection lasts."""

    service: str
    workers: int  # requests served at once


class Served(msgspec.Struct, tag="served"):
    """Reply of the worker. `error`: the handler's refusal; `failure`: the code of what went wrong."""

    id: int
    result: msgspec.Raw = NIL
    error: str = ""
    failure: str = ""
    message: str = ""
    retry_after_s: float = 0.0


class Attached(msgspec.Struct, tag="attached"):
    """The service is offered."""

    node_id: str


class WorkerRefused(msgspec.Struct, tag="refused"):
    """The service cannot be offered."""

    detail: str


class Serve(msgspec.Struct, tag="serve"):
    """A request. `timeout`: seconds until the reply is no longer awaited, 0 for no end."""

    id: int
    payload: msgspec.Raw
    caller: str
    timeout: float = 0.0
    idempotency_id: str = ""


class Dropped(msgspec.Struct, tag="dropped"):
    """The reply is no longer awaited."""

    id: int


FromWorker = Attach | Served
FromNode = Attached | WorkerRefused | Serve | Dropped
