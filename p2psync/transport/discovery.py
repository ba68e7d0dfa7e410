"""Nodes of the local network, found by multicast DNS (RFC 6762, RFC 6763) through python-zeroconf.

An announcement says the protocol, the first 16 digits of the node's id, and where it listens: no model and no site.
What is heard is a hint and never more. Everything from the network is bounded and strictly read; what is refused is
counted under one word and never raised, since it arrives in a callback. A machine without multicast runs on, with
the reason in ``reason``.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, NonUniqueNameException, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2psync import limits
from p2psync.errors import DiscoveryError
from p2psync.transport.handshake import SITE_PROTOCOL
from p2psync.transport.interfaces import Interface, heard_on, inside, listens_on, multicast_choice, parse_address

SERVICE: Final = "_p2psync._tcp.local."
PREFIX_CHARS: Final = 16
_NAME: Final = re.compile(r"([0-9a-f]{16})\." + re.escape(SERVICE))
_CLOSE_TIMEOUT_S: Final = 2.0
_MULTICAST_FAULTS: Final = (OSError, ZeroconfError, RuntimeError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hint:
    """A node may be there. Addresses are inside the site's networks, IPv4 first; link-local ones have their scope."""

    node_prefix: str
    addresses: tuple[str, ...]
    port: int


class Discovery:
    """Hears announcements and, where it is told to, makes one. For one event loop."""

    def __init__(
        self,
        node: str,
        *,
        host: str | None,
        port: int,
        announce: bool,
        heard: Callable[[Hint], None],
        lost: Callable[[Hint], None],
    ) -> None:
        """Prepare.

        Args:
            node: This node's id.
            host: The address it listens on: empty for all interfaces, None for none.
            port: Where it listens.
            announce: Also say so to others.
            heard: Told each new or changed hint, from the event loop.
            lost: Told of a hint whose node took its leave, or was not heard for its time to live.
        """
        self._prefix = node[:PREFIX_CHARS]
        self._host = host
        self._port = port
        self._announce = announce and host is not None and port > 0
        self._heard = heard
        self._lost = lost
        self._known: dict[str, Hint] = {}
        self._interfaces: tuple[Interface, ...] = ()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._lookups: set[asyncio.Task[None]] = set()
        # Why this node is not found by multicast now; None while it is.
        self.reason: str | None = "discovery has not started"
        self.refused: Counter[str] = Counter()

    @property
    def known(self) -> tuple[Hint, ...]:
        """What is heard now."""
        return tuple(self._known.values())

    async def start(self, interfaces: Sequence[Interface]) -> None:
        """Browse on these interfaces, then announce. Where multicast cannot be used ``reason`` says why."""
        self._interfaces = tuple(interfaces)
        try:
            self._open()
            self.reason = None
        except DiscoveryError as error:
            self.reason = error.message
            await self._close()

    async def update(self, interfaces: Sequence[Interface]) -> None:
        """Go on with other interfaces, or try again where multicast could not be used."""
        if self._zeroconf is not None and tuple(interfaces) == self._interfaces:
            return
        if self._zeroconf is None or not await self._move(self._zeroconf, tuple(interfaces)):
            await self._close()
            await self.start(interfaces)

    async def stop(self) -> None:
        """Take leave and close every socket."""
        await self._close()
        self.reason = "discovery has stopped"

    async def _move(self, zeroconf: AsyncZeroconf, interfaces: tuple[Interface, ...]) -> bool:
        """Join and leave interfaces without a goodbye to those that stay. False if everything must start anew."""
        chosen, version = _choice(interfaces, self._host)
        said = self._announcing is None or self._announcing.done()
        if not chosen or not said or version is not _choice(self._interfaces, self._host)[1]:
            return False
        self._interfaces = interfaces
        try:
            await zeroconf.async_update_interfaces(chosen, version)
            if self._announcing is not None and self.reason is None:
                again = announcement(self._prefix, self._port, self._addresses())
                await (await zeroconf.async_update_service(again))
        except (*_MULTICAST_FAULTS, KeyError) as error:
            log.debug("multicast starts anew after a change of interfaces: %s", error)
            return False
        return True

    def _open(self) -> None:
        chosen, version = _choice(self._interfaces, self._host)
        if not chosen:
            raise DiscoveryError("no network interface can be used for multicast")
        try:
            self._zeroconf = AsyncZeroconf(interfaces=chosen, ip_version=version)
            # Browsing first: whoever is here already is heard a second before an announcement could be out.
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])
        except _MULTICAST_FAULTS as error:
            raise DiscoveryError(f"multicast cannot be used: {error}") from error
        if self._announce:
            self._announcing = asyncio.create_task(self._say(self._zeroconf))

    async def _close(self) -> None:
        tasks = [*self._lookups, *([self._announcing] if self._announcing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        zeroconf, self._zeroconf, self._browser, self._announcing = self._zeroconf, None, None, None
        if zeroconf is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await zeroconf.async_close()
        except (*_MULTICAST_FAULTS, TimeoutError) as error:
            log.debug("multicast did not close in good order: %s", error)

    async def _say(self, zeroconf: AsyncZeroconf) -> None:
        """Announce this node: three probes, then the announcement, 1.2 s in all."""
        try:
            said = await zeroconf.async_register_service(announcement(self._prefix, self._port, self._addresses()))
            await said
        except NonUniqueNameException:
            self.reason = f"another machine announces the node id {self._prefix}: was its home copied?"
        except _MULTICAST_FAULTS as error:
            self.reason = f"this node cannot be announced: {error}"

    def _addresses(self) -> list[str]:
        """Where this node listens, as others may reach it: loopback only where it listens on nothing else."""
        own = [each.address for each in self._interfaces if listens_on(self._host, each.address)]
        outer = [address for address in own if not _is_loopback(address)]
        return sorted(outer or own, key=_preference)[: limits.ANNOUNCED_ADDRESSES_MAX]

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Called by zeroconf for each name that came, changed or went. Nothing may be raised from here."""
        try:
            self._follow(zeroconf, name, state_change)
        except (*_MULTICAST_FAULTS, ValueError, LookupError) as error:
            self.refused["malformed"] += 1
            log.debug("an announcement cannot be read: %s", error)

    def _follow(self, zeroconf: Zeroconf, name: str, state_change: ServiceStateChange) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            self.refused["name"] += 1
        elif match[1] == self._prefix:
            return
        elif state_change is ServiceStateChange.Removed:
            gone = self._known.pop(name, None)
            if gone is not None:
                self._lost(gone)
        else:
            info = AsyncServiceInfo(SERVICE, name)
            if info.load_from_cache(zeroconf):
                self._take(name, match[1], info)
            elif len(self._lookups) >= limits.LOOKUPS_MAX:
                self.refused["busy"] += 1
            else:
                task = asyncio.create_task(self._look_up(zeroconf, name, match[1], info))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)

    async def _look_up(self, zeroconf: Zeroconf, name: str, prefix: str, info: AsyncServiceInfo) -> None:
        try:
            if await info.async_request(zeroconf, limits.LOOKUP_TIMEOUT_S * 1000):
                self._take(name, prefix, info)
            else:
                self.refused["incomplete"] += 1
        except (*_MULTICAST_FAULTS, ValueError, LookupError) as error:
            self.refused["malformed"] += 1
            log.debug("looking up %s failed: %s", name, error)

    def _take(self, name: str, prefix: str, info: ServiceInfo) -> None:
        """Keep what an announcement says, or count why not."""
        refusal = refuse_text(info.text, info.properties, prefix)
        if refusal is not None or not 0 < (info.port or 0) < 65536:
            self.refused[refusal or "port"] += 1
            return
        said = [str(address) for address in info.ip_addresses_by_version(IPVersion.All)]
        # Whoever can be reached from elsewhere is not sent to what listens on this machine alone.
        alone = all(map(_is_loopback, self._addresses()))
        addresses = usable(said, self._interfaces, loopback=alone and listens_on(self._host, "127.0.0.1"))
        if not addresses:
            self.refused["outside"] += 1
            return
        hint, known = Hint(prefix, addresses, info.port or 0), self._known.pop(name, None)
        self._known[name] = hint  # The one that was spoken of last stands last.
        if len(self._known) > limits.ANNOUNCEMENTS_MAX:
            # A flood must not keep out who comes after it; who was met before is kept by its channel.
            self.refused["full"] += 1
            self._lost(self._known.pop(next(iter(self._known))))
        if known != hint:
            self._heard(hint)


def _choice(interfaces: Sequence[Interface], host: str | None) -> tuple[list[str | int], IPVersion]:
    """What zeroconf is told to join."""
    chosen = multicast_choice(heard_on(interfaces, host))
    version = IPVersion.All if any(isinstance(each, int) for each in chosen) else IPVersion.V4Only
    return chosen, version


def announcement(prefix: str, port: int, addresses: Sequence[str]) -> ServiceInfo:
    """What a node says of itself."""
    return ServiceInfo(
        SERVICE,
        f"{prefix}.{SERVICE}",
        port=port,
        properties={"p": str(SITE_PROTOCOL), "n": prefix},
        server=f"p2psync-{prefix}.local.",
        parsed_addresses=list(addresses),
    )


def refuse_text(text: bytes, properties: dict[bytes, bytes | None], prefix: str) -> str | None:
    """Why the text of an announcement is not taken, in one word; None if it is.

    Keys that are not known here belong to later versions.
    """
    if len(text) > limits.ANNOUNCEMENT_BYTES_MAX:
        return "long"
    if properties.get(b"p") != str(SITE_PROTOCOL).encode():
        return "protocol"
    return None if properties.get(b"n") == prefix.encode() else "node"


def usable(said: Sequence[str], interfaces: Sequence[Interface], *, loopback: bool) -> tuple[str, ...]:
    """Of the addresses in an announcement those inside the site's own networks, IPv4 first.

    A link-local address that was heard over IPv4 has no scope; it is kept where only one interface can be meant.
    """
    scopes = {each.index for each in interfaces if ":" in each.address and not _is_loopback(each.address)}
    found: set[str] = set()
    for text in said:
        address = parse_address(text)
        scopeless = address is not None and address.version == 6 and address.is_link_local and "%" not in text
        scoped = f"{text}%{min(scopes)}" if scopeless and len(scopes) == 1 else text
        if inside(scoped, interfaces, loopback=loopback):
            found.add(scoped)
    return tuple(sorted(found, key=_preference)[: limits.ANNOUNCED_ADDRESSES_MAX])


def _is_loopback(text: str) -> bool:
    address = parse_address(text)
    return address is not None and address.is_loopback


def _preference(text: str) -> tuple[bool, bool, str]:
    """IPv4, then IPv6, link-local last."""
    address = parse_address(text)
    return ":" in text, address is not None and address.is_link_local, text
