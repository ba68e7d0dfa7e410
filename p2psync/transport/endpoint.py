"""Where a source listens: its URL, taken apart once."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from p2psync.errors import UsageError

# Before the other address family of a host is tried too (RFC 8305).
_HAPPY_EYEBALLS_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL. ``host`` is without brackets, ``path`` begins and ends with a slash and stays percent-encoded.

    ``url`` is for people: it has no login. ``login`` is ``user:password`` or empty.
    """

    url: str
    tls: bool
    host: str
    port: int
    path: str
    login: str

    @property
    def authority(self) -> str:
        """What the ``Host`` header says: never a port that goes without saying, never an interface's name."""
        host = self.host.partition("%")[0]
        host = f"[{host}]" if ":" in host else host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def dialled_url(self) -> str:
        """The URL as aiohttp wants it: with the login, and an interface's name after a bare percent sign."""
        url = self.url.replace("%25", "%", 1) if "%" in self.host else self.url
        return url.replace("://", f"://{self.login}@", 1) if self.login else url

    @property
    def eyeballs_s(self) -> float | None:
        """How long one address of a host may be silent before the next is tried too, in seconds.

        None where ``host`` is an address itself. Then there is no choice, and asyncio's race between addresses, which
        forgets a socket when it is cancelled as it ends, is not run.
        """
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return _HAPPY_EYEBALLS_S
        return None

    def proxy(self) -> str | None:
        """The proxy that the environment names for this URL (http_proxy, https_proxy, no_proxy), if any."""
        if not any(name.lower().endswith("_proxy") for name in os.environ):
            return None
        # This imports http.client and half of email, for a few lines that read the environment.
        from urllib.request import getproxies, proxy_bypass

        proxy = getproxies().get("https" if self.tls else "http")
        return None if not proxy or proxy_bypass(self.host) else proxy


def parse_endpoint(url: str) -> Endpoint:
    """Take an ``http://`` or ``https://`` URL apart.

    Raises:
        UsageError: it is something else, or has a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = unquote(parts.hostname or "")
        if ":" in host:
            ipaddress.IPv6Address(host)
    except ValueError as error:
        raise UsageError(f"not a URL: {url[:200]!r} ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"not an http or https URL: {url[:200]!r}")
    if parts.query or parts.fragment:
        raise UsageError(f"a source's URL has no query and no fragment: {url[:200]!r}")
    if any(not "!" <= character <= "~" for character in parts.path):
        raise UsageError(f"a URL must be percent-encoded: {url[:200]!r}")
    tls = parts.scheme == "https"
    return Endpoint(
        url=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/"),
        tls=tls,
        host=host,
        port=port or (443 if tls else 80),
        path=parts.path.rstrip("/") + "/",
        login=parts.netloc.rpartition("@")[0],
    )
