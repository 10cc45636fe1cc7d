"""What every client command shares: its options, the call to the node, and how it fails."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from node.cli.finding import Found, NoNode, find
from node.client import (
    DEFAULT_TIMEOUT,
    ApiError,
    ClientError,
    ExchangeClient,
    NodeUnreachable,
    NotANode,
    Reply,
)

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes, as documented in `exchange-node --help`."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NO_NODE = 3
    UNEXPECTED = 4
    INTERRUPTED = 130


class Failure(click.ClickException):
    """A failed command: one line on stderr, with --json also a document on stdout, and an exit code."""

    def __init__(
        self, message: str, code: Exit, *, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.document = document

    def show(self, file: Any = None) -> None:
        if self.document is not None:
            print_json(self.document)
        click.echo(f"exchange-node: {' '.join(self.message.split())}", file=file, err=file is None)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
    sys.stdout.flush()


class BlockingTransport:
    """One request per connection by the standard library: imports in a tenth of aiohttp's time."""

    def __init__(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._timeout = timeout

    async def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        parts = urlsplit(url)
        site = f"{parts.scheme}://{parts.netloc}"
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=self._timeout
        )
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            kind = answer.headers.get_content_type()
            return Reply(answer.status, kind, answer.read())
        except TimeoutError as error:
            raise NodeUnreachable(f"no answer from {site} in {self._timeout:g} s") from error
        except (ConnectionResetError, http.client.RemoteDisconnected) as error:
            raise NodeUnreachable(f"{site} closed the connection without an answer") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise NodeUnreachable(f"nobody answers at {site} ({reason})") from error
        except http.client.HTTPException as error:
            raise NotANode(f"what answers at {site} is not a node ({error!r})") from error
        finally:
            connection.close()

    async def close(self) -> None:
        """Nothing is kept."""


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over `BlockingTransport`: it never waits, so it needs no loop."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("a blocking transport must not wait")


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation of a client command."""

    as_json: bool
    data_dir: str | None
    api: str | None

    def find(self) -> Found:
        """Where the node is. Fails with exit code 3 when there is none."""
        try:
            return find(self.data_dir, self.api)
        except NoNode as error:
            raise self.failure(str(error), Exit.NO_NODE, "no_node") from None
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--api") from None

    def ask(
        self,
        work: Callable[[ExchangeClient], Coroutine[Any, Any, T]],
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> T:
        """Runs one request against the node, with every failure explained."""
        found = self.find()
        client = ExchangeClient(
            found.url, node_id=found.node_id, transport=BlockingTransport(timeout)
        )
        try:
            return run_blocking(work(client))
        except ClientError as error:
            raise self.explain(error, found) from error

    def explain(self, error: ClientError, found: Found) -> Failure:
        """The failure of a command whose request failed."""
        if isinstance(error, ApiError):
            if error.code == "wrong_node":
                text = f"another node answers at {found.url}: {error.detail}; {found.hint()}"
                return self.failure(text, Exit.NO_NODE, "wrong_node")
            code = Exit.UNEXPECTED if error.code == "internal_error" else Exit.REFUSED
            document = error.problem if self.as_json else None
            return Failure(f"{error.detail} ({error.code})", code, document=document)
        if isinstance(error, NodeUnreachable | NotANode):
            return self.failure(f"{error}; {found.hint()}", Exit.NO_NODE, "no_node")
        return self.failure(str(error), Exit.NO_NODE, "stream_closed")

    def failure(self, text: str, code: Exit, word: str) -> Failure:
        document = {"code": word, "detail": text} if self.as_json else None
        return Failure(text, code, document=document)


def client_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --json, --data-dir and --api; the command gets a `Session` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option(
        "--data-dir",
        metavar="DIR",
        help="Talk to the node that runs on this directory.  [default: DATA_DIR, or ~/.exchange-node]",
    )
    @click.option("--api", metavar="URL", help="Talk to the node whose API is at this URL.")
    @wraps(command)
    def with_session(
        *args: Any, as_json: bool, data_dir: str | None, api: str | None, **kwargs: Any
    ) -> T:
        if data_dir is not None and api is not None:
            raise click.UsageError("--data-dir and --api both name a node; give one of them.")
        return command(Session(as_json, data_dir, api), *args, **kwargs)

    return with_session
