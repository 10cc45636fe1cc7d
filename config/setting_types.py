"""The kinds of value a setting can have: how each is read from text, checked and shown again.

A kind belongs to a field (`field(Whole(0, 65535), ...)`) and does three things: `parse` reads and checks
a value, error messages and documentation show `expected`, and `text` writes a value the way it would be written in the environment.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

_TRUE: Final = frozenset({"true", "yes", "on", "1", "t", "y"})
_FALSE: Final = frozenset({"false", "no", "off", "0", "f", "n"})
_LABEL: Final = "(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_NODE_ID: Final = "[a-z2-7]{32}"
_SHOWN: Final = 120  # characters of a wrong value that an error line repeats


class HostPort(NamedTuple):
    """A network endpoint: an IP address (IPv6 without brackets) or host name, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Kind(ABC):
    """Type of a setting's value: parsing, checking and formatting."""

    unit: str = ""
    empty_ok: bool = False  # an empty text is a value; otherwise it means "not set"

    @property
    @abstractmethod
    def expected(self) -> str:
        """Description of a valid value, to follow the word "expected"."""

    @abstractmethod
    def parse(self, raw: Any) -> Any:
        """The value of `raw`: text, or what TOML or the command line made of it.

        Raises:
            ValueError: it is none; the message is empty, or adds a detail to `expected`.
        """

    def text(self, value: Any) -> str:
        """A parsed value as it would be written in the environment, without credentials."""
        return self.hide(str(value))

    def shown(self, raw: Any) -> str:
        """A raw value on one line, shortened, for an error message, without credentials."""
        if isinstance(raw, bool):
            raw = str(raw).lower()
        elif isinstance(raw, list | tuple):
            raw = ",".join(str(item) for item in raw)
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.hide(str(raw)))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"

    def hide(self, text: str) -> str:
        """Return `text` without credentials."""
        return text


class Items(Kind):
    """Any number of values, separated by commas or in a list; a repeated one counts once."""

    empty_ok = True

    def parse(self, raw: Any) -> tuple[Any, ...]:
        items = (
            [raw] if isinstance(raw, str) else raw
        )  # a TOML array, a repeated flag, or values already parsed
        if not isinstance(items, list | tuple):
            raise ValueError
        texts = (part.strip() for item in items for part in str(item).split(","))
        return tuple(dict.fromkeys(self.item(text) for text in texts if text))

    @abstractmethod
    def item(self, text: str) -> Any:
        """The value of one text. Raises as `parse`."""

    def text(self, value: Any) -> str:
        return ",".join(self.hide(str(item)) for item in value)


@dataclass(frozen=True)
class Switch(Kind):
    """True or false, in the usual spellings and any letter case."""

    expected = "true or false"

    def parse(self, raw: Any) -> bool:
        word = str(raw).strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError
        return word in _TRUE

    def text(self, value: Any) -> str:
        return str(value).lower()


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number. `what` replaces "a whole number" in messages."""

    least: int
    most: int
    unit: str = ""
    what: str = ""

    @property
    def expected(self) -> str:
        what = self.what or f"a whole number{f' of {self.unit}' if self.unit else ''}"
        return f"{what} from {self.least} to {self.most}"

    def parse(self, raw: Any) -> int:
        text = str(raw).strip()
        # Not int() alone: it takes 3_000 and digits of other scripts, and str(True) is not a
        # number.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not self.least <= int(text) <= self.most:
            raise ValueError
        return int(text)


@dataclass(frozen=True)
class Fraction(Kind):
    """A number from 0 to 1. A binary float: these are weights, never amounts."""

    expected = "a number from 0 to 1"

    def parse(self, raw: Any) -> float:
        text = str(raw).strip()
        # Not float() alone: it takes 1_0, nan and digits of other scripts, and its message repeats `raw`.
        if not re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]{1,3})?", text, re.IGNORECASE):
            raise ValueError
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """A choice among fixed words, in any letter case."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"one of {', '.join(self.words)}"

    def parse(self, raw: Any) -> str:
        word = str(raw).strip().lower()
        if word not in self.words:
            raise ValueError
        return word


@dataclass(frozen=True)
class Name(Kind):
    """A name that matches `pattern` as a whole."""

    pattern: str
    expected: str = ""

    def parse(self, raw: Any) -> str:
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw.strip()):
            raise ValueError
        return raw.strip()


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _host(text: str) -> str:
    """An IP address without brackets, or a host name without its final dot, unchanged otherwise."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        right = ip_address(host).version == 6 or host == text
    except ValueError:
        # "10.0.0.300" would pass as a host name and fail much later, as one that does not resolve.
        right = (
            host == text
            and len(host) <= 253
            and re.search("[^0-9.]", host) is not None
            and _HOST_NAME.fullmatch(host) is not None
        )
    if not right:
        raise ValueError(f"{_short(text)} is not a host")
    return host.removesuffix(".")


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Host(Kind):
    """An address to listen on."""

    expected = "an IP address or host name"

    def parse(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise ValueError
        try:
            return _host(raw.strip())
        except ValueError:
            raise ValueError from None


class HostNames(Items):
    """Host names."""

    expected = "comma-separated host names such as nodes.example.org"

    def item(self, text: str) -> str:
        name = _host(text)
        if ":" in name or re.fullmatch("[0-9.]+", name):
            raise ValueError(f"{_short(text)} is an address, not a name")
        return name.lower()


@dataclass(frozen=True)
class HostPorts(Items):
    """Addresses with ports. `names`: hosts may be names."""

    names: bool = True

    @property
    def expected(self) -> str:
        return f"comma-separated {'HOST' if self.names else 'IP'}:PORT, IPv6 addresses in brackets"

    def item(self, text: str) -> HostPort:
        host, colon, port = text.rpartition(":")
        if "://" in text:
            raise ValueError(f"{_short(without_password(text))} is a URL")
        if not colon or port.endswith("]"):
            raise ValueError(f"{_short(text)} has no port")
        if not host:
            raise ValueError(f"{_short(text)} has no host")
        if ":" in host and not host.startswith("["):
            if _is_ip(text) or _is_ip(host):
                raise ValueError(f"{_short(text)} is an IPv6 address without brackets")
            raise ValueError(f"{_short(text)} has more than one colon")
        if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError(f"the port of {_short(text)} is not from 1 to 65535")
        found = HostPort(_host(host), int(port))
        if not self.names and not _is_ip(found.host):
            raise ValueError(f"{_short(host)} is not an IP address")
        return found


class NodeIds(Items):
    """Node ids."""

    expected = "comma-separated node ids of 32 characters from a-z and 2-7"

    def item(self, text: str) -> str:
        if not re.fullmatch(_NODE_ID, text.lower()):
            raise ValueError(f"{_short(text.lower())} is not a node id")
        return text.lower()


@dataclass(frozen=True)
class Ipv4(Kind):
    """An IPv4 address of one machine, or nothing."""

    empty_ok = True
    expected = "an IPv4 address such as 192.0.2.7, or nothing"

    def parse(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise ValueError
        text = raw.strip()
        if text:
            try:
                address = IPv4Address(text)
            except ValueError:
                raise ValueError from None
            if address.is_unspecified or address.is_multicast:
                raise ValueError
        return text


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(_host(parts.hostname or ""))
        return usable and parts.port != 0  # reading the port checks its range
    except ValueError:
        return False


class Urls(Items):
    """One or more http or https addresses, in order of preference. They cannot carry credentials; wrong ones are
    shown without them."""

    empty_ok = False
    expected = "an address such as http://127.0.0.1:30001, without user name or query, or several with commas"

    def parse(self, raw: Any) -> tuple[str, ...]:
        urls = super().parse(raw)
        if not urls:
            raise ValueError
        return urls

    def item(self, text: str) -> str:
        if not _is_http(text) or re.search(r"[\s@?#]", text):
            raise ValueError
        return _without_final_dot(text).rstrip("/")

    def hide(self, text: str) -> str:
        return without_password(text)  # of the whole text: a password may contain a comma


class PasswordUrl(Kind):
    """Address, or empty. It may carry a password, which is never shown."""

    empty_ok = True
    schemes: ClassVar[tuple[str, ...]] = ()

    def parse(self, raw: Any) -> str:
        text = str(raw).strip()
        if text:
            self.check(text)
        return text

    def check(self, text: str) -> None:
        """Raises `ValueError` without the text, which may have a password."""
        try:
            parts = urlsplit(text)
        except ValueError:
            raise ValueError from None  # the library's message may repeat the password
        if parts.scheme not in self.schemes or re.search(r"\s", text):
            raise ValueError

    def hide(self, text: str) -> str:
        return without_password(text)


class PostgresUrl(PasswordUrl):
    """Address of a PostgreSQL database, or empty."""

    expected = "an address such as postgresql://user:password@host/database, or empty"
    schemes: ClassVar = ("postgresql", "postgres")


def _without_final_dot(url: str) -> str:
    """An address whose host name does not end in a dot, which certificates and Host headers do not have."""
    return re.sub(r"^([A-Za-z]+://[^/?#]*?)\.(?=(:[0-9]*)?([/?#]|$))", r"\1", url)


def without_password(text: str) -> str:
    """An address without what stands before its last @, and without its query, which may have a password too."""
    text = re.sub(r"^([A-Za-z]+:/+)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?***", text, flags=re.DOTALL)


class SignedUrl(NamedTuple):
    """An http or https address, and the node id of who signs what it serves."""

    url: str
    signer: str

    def __str__(self) -> str:
        return f"{self.url}#{self.signer}"


class SignedUrls(Items):
    """Addresses, each with the node id of a signer after `#`."""

    expected = "comma-separated https addresses, each with # and the node id of its signer"

    def item(self, text: str) -> SignedUrl:
        url, _, signer = text.rpartition("#")
        if not _is_http(url) or re.search(r"\s", url) or "@" in urlsplit(url).netloc:
            raise ValueError
        if not re.fullmatch(_NODE_ID, signer):
            raise ValueError(f"{_short(signer)} is not a node id")
        return SignedUrl(_without_final_dot(url), signer)

    def hide(self, text: str) -> str:
        return re.sub(r"//[^/]*@", "//***@", text)


@dataclass(frozen=True)
class FilePath(Kind):
    """A path; `~` is the home directory.

    `inside` says what a relative one is relative to: the data directory (it then stays relative here),
    or, when empty, the directory of the config file that has it, otherwise the working directory.
    """

    inside: str = ""
    what: str = "a path"
    empty_ok: bool = False

    @property
    def expected(self) -> str:
        relative = f", absolute or relative to {self.inside}" if self.inside else ""
        return f"{self.what}{relative}{', or nothing' if self.empty_ok else ''}"

    def parse(self, raw: Any) -> Path | None:
        if raw is None or raw == "":
            if self.empty_ok:
                return None
            raise ValueError
        if not isinstance(raw, str | Path) or "\0" in str(raw) or not str(raw).strip():
            raise ValueError
        try:
            if str(raw).startswith("~") and not os.environ.get("HOME", "unset"):
                raise RuntimeError  # ~ would be the root directory
            path = Path(raw).expanduser()
        except RuntimeError:
            raise ValueError("the home directory, for ~, is unknown") from None
        if not self.inside:
            path = path.absolute()
        if any("\ud800" <= char <= "\udfff" for char in str(path)):
            raise ValueError("its bytes are not UTF-8 text")
        return path

    def text(self, value: Any) -> str:
        return "" if value is None else str(value)
