"""Session of a client command: shared options, the call to the node, and error handling."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from node.client.credentials import KeyRefused, parse_key
from node.client.exchange_client import (
    DEFAULT_TIMEOUT,
    MAX_ANSWER,
    ApiError,
    ApiResponse,
    ClientError,
    ExchangeClient,
    NodeUnreachable,
    NotANode,
    UntrustedNode,
    api_request,
    api_response,
    explained,
)
from node.client.node_finder import FoundNode, NoNode, find, program, same_node
from node.client.server_trust import Trust
from p2p.base.http1 import (
    Failure,
    HttpFailed,
    HttpReply,
    ReplyParser,
    Url,
    connection_failure,
)

RECEIVED: Final = 1 << 16  # bytes read at once
T = TypeVar("T")
G = TypeVar("G", bound=click.Group)
KEY_VARIABLE: Final = "EXCHANGE_NODE_KEY"  # not an option: other users see command lines
PROFILE_VARIABLE: Final = "EXCHANGE_NODE_DESK"
DEBUG_VARIABLE: Final = "EXCHANGE_NODE_DEBUG"
VARIABLES: Final = (KEY_VARIABLE, PROFILE_VARIABLE, DEBUG_VARIABLE)


class Exit(IntEnum):
    """Exit codes, as documented in `exchange-node --help`."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NO_NODE = 3
    UNEXPECTED = 4
    NOT_PRINTED = 5
    INTERRUPTED = 130


class CommandFailure(click.ClickException):
    """A failed command: one line on stderr, with --json also a document on stdout, and an exit code."""

    def __init__(
        self, message: str, code: Exit, *, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(same_node(message, node_options()))
        self.code = code
        self.document = document

    def show(self, file: Any = None) -> None:
        try:
            if self.document is not None:
                print_json(self.document)
        finally:  # standard output may be closed or full
            text = " ".join(self.message.split())
            click.echo(f"exchange-node: {text}", file=file, err=file is None)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
    sys.stdout.flush()


class BlockingTransport:
    """HTTP over blocking sockets, one request per connection: a short command need not load asyncio."""

    def __init__(self, timeout: float = DEFAULT_TIMEOUT, *, trust: Trust | None = None) -> None:
        self._timeout = timeout
        self._trust = trust or Trust()
        self.changed = False  # a request that may change something was answered

    def _connect(self, parts: Url) -> socket.socket:
        """Raises `HttpFailed`."""
        connection: socket.socket | None = None
        try:
            connection = socket.create_connection(parts.address, self._timeout)
            if not parts.secure:
                return connection
            wrapped = self._trust.context().wrap_socket(
                connection, server_hostname=parts.address[0]
            )
            if not self._trust.is_right(wrapped.getpeercert(binary_form=True)):
                wrapped.close()
                raise HttpFailed(Failure.UNTRUSTED, sent=False)
            return wrapped
        except (OSError, ValueError, OverflowError) as error:
            if connection is not None:
                connection.close()
            raise connection_failure(error) from error

    def _exchange(self, parts: Url, data: bytes) -> HttpReply:
        """Raises `HttpFailed`."""
        parser, begun = ReplyParser(MAX_ANSWER), False
        with closing(self._connect(parts)) as connection:
            try:
                connection.sendall(data)
                while received := connection.recv(RECEIVED):
                    begun = True
                    if (reply := parser.feed(received)) is not None:
                        return reply
            except TimeoutError:
                raise HttpFailed(Failure.NO_REPLY) from None
            except OSError as error:
                if not isinstance(error, ConnectionResetError | BrokenPipeError):
                    raise connection_failure(error) from error
            reply = parser.eof()
        if reply is None:
            raise HttpFailed(Failure.CUT_SHORT if begun else Failure.LOST)
        return reply

    async def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> ApiResponse:
        try:
            parts = Url.parse(url)
            reply = self._exchange(parts, api_request(method, parts, body, headers, "close"))
        except HttpFailed as error:
            raise explained(error, url, self._timeout) from error
        except ValueError as error:
            raise NotANode(f"{url} is not the URL of a node: {error}") from error
        self.changed |= method != "GET" and reply.status < 300
        return api_response(reply)

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


def _warn_of_misspelt() -> None:
    """Name a variable that is probably meant for the key: without one a command acts as the operator."""
    from difflib import get_close_matches

    for name in os.environ:
        if name not in VARIABLES and get_close_matches(name.upper(), [KEY_VARIABLE], cutoff=0.85):
            click.echo(
                f"exchange-node: warning: {name} is not used; did you mean {KEY_VARIABLE}?",
                err=True,
            )


def key_in_environment() -> tuple[str, str] | None:
    """Key and secret of EXCHANGE_NODE_KEY, None if it is not set. Fails with exit code 2."""
    text = os.environ.get(KEY_VARIABLE)
    if text is None:
        _warn_of_misspelt()
        return None
    if not text.strip():
        raise click.UsageError(
            f"{KEY_VARIABLE} is set but empty: set it to KEY:SECRET, or unset it to act as the operator."
        )
    try:
        return parse_key(text)
    except KeyRefused as error:
        raise click.UsageError(
            f"{KEY_VARIABLE} must be KEY:SECRET, as printed by 'exchange-node account keys create'; it {error}."
        ) from None


@dataclass(frozen=True, slots=True)
class Session:
    """Context of one invocation of a client command."""

    as_json: bool
    data_dir: str | None
    api: str | None
    ca_file: Path | None = None

    def find(self) -> FoundNode:
        """Locate the running node. Fails with exit code 3 when no node runs."""
        try:
            return find(self.data_dir, self.api)
        except NoNode as error:
            raise self.failure(str(error), Exit.NO_NODE, "no_node") from None
        except ValueError as error:
            hint = "--data-dir" if self.api is None else "--api"
            raise click.BadParameter(str(error), param_hint=hint) from None

    def ask(
        self,
        work: Callable[[ExchangeClient], Coroutine[Any, Any, T]],
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> T:
        """Runs one request against the node, with every failure explained."""
        found = self.find()
        key, secret = self.credentials(found)
        transport = BlockingTransport(timeout, trust=self.trust(found))
        client = ExchangeClient(
            found.url, key=key, secret=secret, node_id=found.node_id, transport=transport
        )
        try:
            return run_blocking(work(client))
        except ClientError as error:
            raise self.explain(error, found) from error
        finally:
            if transport.changed:
                click.get_current_context().meta[_CHANGED] = True

    def credentials(self, found: FoundNode) -> tuple[str | None, str | None]:
        """Key and secret: those in EXCHANGE_NODE_KEY, else the operator's of the node on this machine."""
        given = key_in_environment()
        if given is not None:
            return given
        return ("operator", found.operator_token) if found.operator_token else (None, None)

    def trust(self, found: FoundNode) -> Trust:
        """Trusted certificate: --api-cafile, else the certificate named in the node's runtime file."""
        if self.ca_file is not None:
            trust = Trust(ca_file=self.ca_file)
            try:
                trust.context()
            except (OSError, ValueError):
                raise click.BadParameter(
                    f"{self.ca_file} is no certificate in PEM form", param_hint="--api-cafile"
                ) from None
            return trust
        return Trust(fingerprint=found.fingerprint)

    def explain(self, error: ClientError, found: FoundNode) -> CommandFailure:
        """The failure of a command whose request failed."""
        if isinstance(error, ApiError):
            if error.code == "wrong_node":
                text = f"another node answers at {found.url}: {error.detail}; {found.hint()}"
                return self.failure(text, Exit.NO_NODE, "wrong_node")
            if error.code == "key_required":
                text = f"this needs an API key: {KEY_VARIABLE}=KEY:SECRET exchange-node ..."
                return CommandFailure(
                    text, Exit.REFUSED, document=error.problem if self.as_json else None
                )
            code = Exit.UNEXPECTED if error.code == "internal_error" else Exit.REFUSED
            document = error.problem if self.as_json else None
            return CommandFailure(f"{error.detail} ({error.code})", code, document=document)
        if isinstance(error, UntrustedNode):
            text = f"{error}; give the node's certificate with --api-cafile FILE"
            return self.failure(text, Exit.NO_NODE, "untrusted")
        if isinstance(error, NodeUnreachable | NotANode):
            return self.failure(f"{error}; {found.hint()}", Exit.NO_NODE, "no_node")
        return self.failure(str(error), Exit.NO_NODE, "stream_closed")

    def failure(self, text: str, code: Exit, word: str) -> CommandFailure:
        document = {"code": word, "detail": text} if self.as_json else None
        return CommandFailure(text, code, document=document)


_META: Final = "exchange_node.options"
_CHANGED: Final = "exchange_node.changed"


def has_changed(ctx: click.Context) -> bool:
    """Report if the node has answered a request of this command that may change something."""
    return _CHANGED in ctx.meta


def inherited(name: str) -> Any:
    """Value of an option that was given before the subcommand; None without one."""
    return click.get_current_context().meta.get(_META, {}).get(name)


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value:
        ctx.meta.setdefault(_META, {})[param.name] = value


def node_options() -> str:
    """The options that named the node, as a shell reads them, after a blank; empty without any."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return ""
    options = ""
    for name, option in (("data_dir", "--data-dir"), ("api", "--api"), ("ca_file", "--api-cafile")):
        value = ctx.params.get(name) or inherited(name)
        if value is not None:
            options += f" {option} {shlex.quote(str(value))}"
    return options


def shell_command(*words: str) -> str:
    """A command for the node that this command is about, to be copied into a shell."""
    return f"{program()} {shlex.join(words)}{node_options()}"


def common_options(group: G) -> G:
    """Accept --data-dir, --api and --json before the subcommand too."""
    for option in (
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."),
        click.Option(["--data-dir"], metavar="DIR", help="Data directory of the node."),
        click.Option(["--api"], metavar="URL", help="URL of the node's API."),
    ):
        option.expose_value, option.callback = False, _remember
        option.hidden = group.name != "cli"
        group.params.append(option)
    return group


def client_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --json, --data-dir and --api; the command gets a `Session` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option(
        "--data-dir",
        metavar="DIR",
        help="Talk to the node that runs on this directory.  [default: DATA_DIR, or ~/.exchange-node]",
    )
    @click.option("--api", metavar="URL", help="URL of the node's API.")
    @click.option(
        "--api-cafile",
        "ca_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Certificate (PEM) that the node at an https URL is known by.",
    )
    @wraps(command)
    def with_session(
        *args: Any,
        as_json: bool,
        data_dir: str | None,
        api: str | None,
        ca_file: Path | None,
        **kwargs: Any,
    ) -> T:
        if data_dir is None and api is None:
            data_dir, api = inherited("data_dir"), inherited("api")
        as_json = as_json or bool(inherited("as_json"))
        if data_dir is not None and api is not None:
            raise click.UsageError("--data-dir and --api both name a node; give one of them.")
        return command(Session(as_json, data_dir, api, ca_file), *args, **kwargs)

    return with_session
