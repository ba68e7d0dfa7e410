"""What people write on the command line, as values: ages, rates, addresses, paths, switches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2psync.errors import UsageError

_AGE: Final = re.compile(r"([0-9]{1,9})([dhms])")
_AGE_S: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kmg]?)(bit|b)?(?:/s)?", re.IGNORECASE)
_RATE_FACTOR: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LISTEN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9._-]*):([0-9]{1,5})")
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_PORT_MAX: Final = 65_535
# A test holds these equal to p2psync.node.watching.Exposure, which takes aiohttp along.
_EXPOSURES: Final = ("loopback", "open", "off")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty ``host`` means the default one; port 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        import ipaddress

        if self.host in ("", "localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def age_s(text: str) -> int:
    """Seconds of ``30d``, ``12h``, ``90m`` or ``45s``.

    Raises:
        UsageError: it is none of them, or zero.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{text!r} is no age", hint="write a number and its unit: 30d, 12h, 90m or 45s")
    return int(match[1]) * _AGE_S[match[2]]


def rate_bytes_per_s(text: str) -> int:
    """Bytes per second of ``500k``, ``2M``, ``10Mbit`` or a bare number. Units are decimal.

    Raises:
        UsageError: it is no rate, or less than one byte per second.
    """
    match = _RATE.fullmatch(text.strip())
    rate = 0.0
    if match is not None:
        rate = float(match[1]) * _RATE_FACTOR[match[2].lower()] / (8 if (match[3] or "").lower() == "bit" else 1)
    if rate < 1:
        raise UsageError(f"{text!r} is no rate", hint="write bytes per second: 500k, 2M, or bits: 10Mbit")
    return int(rate)


def limit(text: str) -> int:
    """A rate, or 0 for ``none``.

    Raises:
        UsageError: it is neither.
    """
    return 0 if text.strip().lower() == "none" else rate_bytes_per_s(text)


def frame_size(text: str) -> tuple[int, int]:
    """Height and width of ``720x1280``.

    Raises:
        UsageError: it is neither.
    """
    height, _, width = text.strip().lower().partition("x")
    return whole(height), whole(width)


def whole(text: str) -> int:
    """A number without sign and fraction.

    Raises:
        UsageError: it is none, or has more than ten digits.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise UsageError(f"{text!r} is no whole number")
    return int(text)


def number(text: str) -> float:
    """A finite number.

    Raises:
        UsageError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UsageError(f"{text!r} is no number")
    return value


def source_url(text: str) -> str:
    """A ``--from``: an http, https or file URL as it is, a path as the file URL of what it names.

    Whether a directory is there is for the one who opens it to say.

    Raises:
        UsageError: it is neither.
    """
    match = _SCHEME.fullmatch(text)
    if match is not None:
        if match[1].lower() not in ("http", "https", "file") or not match[2].strip("/"):
            raise UsageError(f"{text!r} is no source", hint="a source is https://, http://, file:/// or a directory")
        return text.rstrip("/")
    path = Path(text).expanduser()
    if not text or not (text[0] in "/.~" or path.is_dir()):
        raise UsageError(
            f"{text!r} is neither a URL nor a directory that is there", hint=f"--from https://{text} or --from ./{text}"
        )
    return path.absolute().as_uri()


def peer_url(text: str) -> str:
    """A ``--peer``: ``host:port`` or ``http://host:port``.

    Raises:
        UsageError: it is neither.
    """
    address = text.removeprefix("http://").rstrip("/")
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match[2]) <= _PORT_MAX:
        raise UsageError(
            f"{text!r} is no peer", hint="a peer is host:port or http://host:port; for anything else there is --from"
        )
    return f"http://{address}"


def listen_address(text: str) -> Address:
    """A ``--listen``: ``host:port``, or ``:port`` on the default host.

    Raises:
        UsageError: it is none.
    """
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[2]) > _PORT_MAX:
        raise UsageError(f"{text!r} is no address to listen on", hint="write HOST:PORT, such as 127.0.0.1:7007")
    return Address(match[1].strip("[]"), int(match[2]))


def exposure(text: str) -> str:
    """A ``--metrics``: who may read them.

    Raises:
        UsageError: it is none of the three words.
    """
    if text not in _EXPOSURES:
        raise UsageError(f"{text!r} is not one of {', '.join(_EXPOSURES)}", hint="loopback is this machine alone")
    return text


def absolute_path(text: str) -> str:
    """A path as the process that owns the home must read it: absolute, ``~`` replaced.

    Raises:
        UsageError: it is empty.
    """
    if not text:
        raise UsageError("a path is empty")
    return str(Path(text).expanduser().absolute())


def switch(text: str) -> bool:
    """Whether the variable of a switch means yes. Empty means no.

    Raises:
        UsageError: it says neither yes nor no.
    """
    value = _SWITCH.get(text.strip().lower()) if text.strip() else False
    if value is None:
        raise UsageError(f"{text!r} is neither yes nor no", hint="write 1 or 0")
    return value
