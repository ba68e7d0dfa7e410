"""The neighbours of a node: found, proved, kept, and told of each other.

What is decided (whom to dial, which of two channels stays, who is banned) stands in ``swarm.acquaintances``; what
crosses a socket in ``transport``. Here both meet, with a clock and entropy.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from p2psync import limits
from p2psync.errors import ChannelRefusedError, DiscoveryError, UsageError
from p2psync.manifest import SigningKey
from p2psync.node.clones import Clones
from p2psync.node.contacts import Contact, Neighbour, place_of
from p2psync.swarm import TokenBucket
from p2psync.swarm.acquaintances import PREFIX_CHARS, Acquaintances, Ban, Verdict
from p2psync.swarm.gossip import GOSSIP_TAG, decode_gossip, encode_gossip
from p2psync.transport import (
    Channels,
    ChannelTimes,
    Hello,
    Interface,
    Reason,
    SiteChannel,
    SiteRoute,
    Speaker,
    base_url,
    inside,
    listens_on,
    parse_endpoint,
    read_interfaces,
)

if TYPE_CHECKING:
    from p2psync.transport import Discovery, Hint

# What arrives in one burst (twenty announcements, ten goodbyes) is thought about once.
_SETTLE_S: Final = 0.02
# Who answered so is none of ours, or not now: there is no hurry to ask again.
_SETTLED: Final = (
    Reason.SITE,
    Reason.SELF,
    Reason.CLONED,
    Reason.PROTOCOL,
    Reason.BANNED,
    Reason.SIGNATURE,
    Reason.MALFORMED,
)

__all__ = ["Neighbour", "Neighbours"]

log = logging.getLogger(__name__)


class Neighbours:
    """Finds the nodes of the site and keeps one channel to each. For one event loop.

    The first byte of a message says what it is: 0 is spoken here, all others are the caller's.
    """

    def __init__(  # noqa: PLR0913 - Facts and callbacks of their own; all but the key go by name.
        self,
        key: SigningKey,
        *,
        site: str,
        host: str | None,
        port: int,
        discover: bool,
        announce: bool,
        peers: Sequence[str],
        on_join: Callable[[Neighbour], None],
        on_leave: Callable[[Neighbour, str], None],
        on_message: Callable[[str, bytes], None],
        emit: Callable[[dict[str, Any]], None],
        times: ChannelTimes | None = None,
    ) -> None:
        """Prepare. All callbacks are called from the event loop and must not wait.

        Args:
            key: The node's key, which decides its id.
            site: Nodes that were told another one are refused.
            host: The address that the node's server listens on; empty for all interfaces, None for none.
            port: Where it listens.
            discover: Hear announcements.
            announce: Make one, where the node listens anywhere.
            peers: Base URLs that are dialled as given and never forgotten.
            on_join: A channel has come about. Where it replaces another, ``on_leave`` of that comes first.
            on_leave: A channel has ended; the word says why.
            on_message: A node's id and a message of at least one byte, the first of which is not 0. What it raises of
                ours ends the channel as malformed.
            emit: Events about peers, at a bounded rate.
            times: Deadlines of channels.

        Raises:
            UsageError: a peer is no URL, there are too many, or the site's id is too long.
        """
        static = list(dict.fromkeys(parse_endpoint(peer).url for peer in peers))
        self._me = Speaker(key, site, host, port)
        self.node = self._me.node
        self._static = frozenset(static)
        self._on_join, self._on_leave, self._on_message, self._emit = on_join, on_leave, on_message, emit
        self._loop = asyncio.get_running_loop()
        self._acquaintances = Acquaintances(self.node, static, self._loop.time(), dialled=host is not None and port > 0)
        self._channels = Channels(
            self._me, admit=self._admit, serve=self._welcome, refused=self._refuse_caller, times=times
        )
        self.discovery: Discovery | None = None
        if discover:
            # Whoever is told whom to meet does without multicast, and without the time it takes to load.
            from p2psync.transport import Discovery

            self.discovery = Discovery(
                self.node, host=host, port=port, announce=announce, heard=self._heard, lost=self._lost
            )
        self._contacts: dict[str, Contact] = {}
        self._clones = Clones(self.node, self._loop.time)
        # Who introduced itself to which dial, until that has ended.
        self._greeted: dict[asyncio.Task[Any] | None, str] = {}
        self._interfaces: tuple[Interface, ...] = ()
        self._chores: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._quota = TokenBucket(limits.PEER_EVENTS_PER_S, limits.PEER_EVENTS_BURST, self._loop.time())
        self._stopping = False

    @property
    def accept(self) -> SiteRoute:
        """What answers ``/v1/site``: hand it to ``Server.open_site``."""
        return self._channels.accept

    async def start(self) -> None:
        """Listen for announcements and dial. A machine without multicast goes on with addresses and hearsay."""
        self._read_interfaces()
        if self.discovery is not None:
            await self.discovery.start(self._interfaces)
        self._chores = [self._spawn(self._dial_when_due()), self._spawn(self._keep_house())]

    async def stop(self) -> None:
        """Say goodbye to every neighbour and to the network; ends within a few seconds."""
        self._stopping = True
        for chore in self._chores:
            chore.cancel()
        farewells = [contact.channel.close(Reason.LEAVING) for contact in self._contacts.values()]
        if self.discovery is not None:
            farewells.append(self.discovery.stop())
        await asyncio.gather(*farewells, return_exceptions=True)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._channels.close()

    def send(self, node: str, message: bytes) -> bool:
        """Queue a message for a node; False if it is not connected, or ends because it does not read.

        Raises:
            UsageError: the message has no tag of the caller's, or is larger than one may be.
        """
        if not message or message[0] == GOSSIP_TAG:
            raise UsageError("a message begins with a tag from 1 to 255")
        contact = self._contacts.get(node)
        return contact is not None and contact.channel.send(message)

    def live(self) -> list[Neighbour]:
        """The nodes with a channel, by id."""
        return [self._snapshot(self._contacts[node]) for node in sorted(self._contacts)]

    def ban(self, node: str, reason: str, seconds: float) -> None:
        """End the channel to a node and make none for a while."""
        self._acquaintances.ban(node, reason, self._loop.time() + seconds)
        contact = self._contacts.get(node)
        self._tell("banned", node, contact.url if contact else None, reason)
        if contact is not None:
            self._spawn(contact.channel.close(Reason.BANNED))

    def bans(self) -> list[Ban]:
        """The bans that hold now, and the ids, perhaps this node's own, that two machines have."""
        return [*self._acquaintances.bans(self._loop.time()), *self._clones.all()]

    # Hints -------------------------------------------------------------------------------------

    def _heard(self, hint: Hint) -> None:
        urls = [base_url(address, hint.port) for address in hint.addresses]
        self._acquaintances.heard(hint.node_prefix, urls, self._loop.time())
        self._wake.set()

    def _lost(self, hint: Hint) -> None:
        self._acquaintances.lost(hint.node_prefix)

    def _told(self, teller: str, message: bytes) -> None:
        now_s, contact = self._loop.time(), self._contacts[teller]
        quota = contact.gossip
        if quota.take(len(message), now_s) > 0:
            quota.take(-len(message), now_s)  # What is not read costs nothing.
            return
        # What is on a machine alone is told by whoever is there too: a word from elsewhere leads to no local service.
        for entry in decode_gossip(message):
            if self._near(entry.address) and entry.port and contact.shares(entry):
                url = base_url(entry.address, entry.port)
                self._acquaintances.told(teller, entry.prefix, url, now_s)
        self._wake.set()

    def _near(self, address: str) -> bool:
        return inside(address, self._interfaces, loopback=listens_on(self._me.host, "127.0.0.1"))

    def _allowed(self, url: str) -> bool:
        return self._near(parse_endpoint(url).host)

    def _read_interfaces(self) -> None:
        try:
            self._interfaces = read_interfaces()
        except DiscoveryError as error:
            log.debug("%s", error)

    async def _keep_house(self) -> None:
        """Follow changes of interfaces, and say again where neighbours are before it is forgotten."""
        told_s = self._loop.time()
        while True:
            await asyncio.sleep(limits.INTERFACE_CHECK_S)
            self._read_interfaces()
            if self.discovery is not None:
                await self.discovery.update(self._interfaces)
                for hint in self.discovery.known:
                    self._heard(hint)
            if self._loop.time() - told_s >= limits.GOSSIP_INTERVAL_S:
                told_s = self._loop.time()
                for node in list(self._contacts):
                    self._gossip(node)

    # Dialling ----------------------------------------------------------------------------------

    async def _dial_when_due(self) -> None:
        while True:
            self._wake.clear()
            now_s = self._loop.time()
            for url in self._acquaintances.due(now_s, self._allowed):
                self._spawn(self._dial(url))
            next_s = self._acquaintances.next_s(now_s)
            patience_s = limits.INTERFACE_CHECK_S if next_s is None else min(next_s - now_s, limits.INTERFACE_CHECK_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(_SETTLE_S, patience_s)):
                    await self._wake.wait()
            await asyncio.sleep(_SETTLE_S)

    async def _dial(self, url: str) -> None:
        """One try to reach an address, and the channel that comes of it to its end."""
        task = asyncio.current_task()
        try:
            channel = await self._channels.dial(url)
        except ChannelRefusedError as error:
            self._dial_failed(url, self._greeted.get(task), error)
            return
        finally:
            self._greeted.pop(task, None)
            self._wake.set()
        self._acquaintances.reached(url, channel.node, self._loop.time())
        await self._keep(channel, url)

    def _dial_failed(self, url: str, node: str | None, error: ChannelRefusedError) -> None:
        reason, now_s = Reason(error.reason), self._loop.time()
        if reason is Reason.DUPLICATE and node is not None:
            self._acquaintances.reached(url, node, now_s, proven=False)
            return
        self._acquaintances.failed(url, now_s, random.random(), settled=reason in _SETTLED)  # noqa: S311
        if reason is Reason.CLONED:
            self._clones.met_self(url)
        if not self._stopping and (url in self._static or reason not in (Reason.UNREACHABLE, Reason.SELF)):
            self._tell("refused", node, url, reason)

    def _admit(self, hello: Hello, dialled: bool) -> Reason | None:  # noqa: FBT001 - The callback's two facts.
        """Whether a node that introduced itself may prove who it is. Two dials never lead to one node at once."""
        if self._stopping:
            return Reason.LEAVING
        now_s, crosses = self._loop.time(), False
        if dialled:
            crosses = hello.node in self._greeted.values()
            self._greeted[asyncio.current_task()] = hello.node
        objection = self._acquaintances.objection(hello.node, now_s)
        if objection is not None:
            return Reason(objection.value)
        crosses = crosses or self._acquaintances.crosses(hello.node, now_s, by_me=dialled)
        return Reason.DUPLICATE if crosses else None

    def _refuse_caller(self, address: str, error: ChannelRefusedError) -> None:
        if error.reason == Reason.CLONED:
            self._clones.met_self(address)
        if error.reason not in (Reason.LOST, Reason.DUPLICATE, Reason.SELF):
            self._tell("refused", None, address, error.reason)

    # Channels ----------------------------------------------------------------------------------

    async def _welcome(self, channel: SiteChannel) -> None:
        await self._keep(channel, None)

    async def _keep(self, channel: SiteChannel, dialled: str | None) -> None:
        """Run a channel that has just proved who is there, unless another to the same node stays."""
        node, now_s, by_me = channel.node, self._loop.time(), dialled is not None
        url = dialled if dialled in self._static else None
        if url is None and channel.peer.port and channel.address:
            url = base_url(channel.address, channel.peer.port)
        objection = self._acquaintances.objection(node, now_s)
        if objection is not None:
            await channel.close(Reason(objection.value))
            return
        if self._is_elsewhere(channel, now_s):
            self._tell("refused", node, url or channel.address, Reason.CLONED)
            await channel.close(Reason.CLONED)
            return
        verdict = self._acquaintances.joined(node, url, now_s, by_me=by_me)
        if verdict is Verdict.REFUSE:
            await channel.close(Reason.DUPLICATE)
            return
        if verdict is Verdict.REPLACE:
            self._replace(node)
        quota = TokenBucket(limits.GOSSIP_BYTES_PER_S, limits.GOSSIP_BYTES_BURST, now_s)
        contact = self._contacts[node] = Contact(channel, url, quota)
        try:
            self._greet(contact)
            await channel.run(lambda message: self._receive(node, message))
        except Exception:  # A bug of the caller's costs one channel.
            log.exception("a message of %s was not handled", node[:PREFIX_CHARS])
            channel.cut(Reason.LOST)
        finally:
            if self._contacts.get(node) is contact:
                del self._contacts[node]
                self._acquaintances.left(node, self._loop.time(), random.random())  # noqa: S311
                self._wake.set()
                self._part(contact, channel.reason or Reason.LOST)
            if channel.reason is Reason.CLONED:
                # Whoever said so is connected with the other machine, and stays that for a while.
                self._clones.met_self(f"a neighbour of {channel.address}")
                if dialled is not None:
                    self._acquaintances.failed(dialled, self._loop.time(), random.random(), settled=True)  # noqa: S311

    def _is_elsewhere(self, channel: SiteChannel, now_s: float) -> bool:
        """Whether the node of a new channel is here already, from another machine that has the same key."""
        old = self._contacts.get(channel.node)
        if old is None:
            return False
        crossing = old.channel.dialled != channel.dialled and now_s - old.channel.since_s < limits.HANDSHAKE_TIMEOUT_S
        return not crossing and self._clones.elsewhere(channel.node, place_of(old.channel), place_of(channel))

    def _receive(self, node: str, message: bytes) -> None:
        if message[0] == GOSSIP_TAG:
            self._told(node, message)
        else:
            self._on_message(node, message)

    def _replace(self, node: str) -> None:
        """Let go of the channel that another one to the same node takes the place of."""
        old = self._contacts.pop(node)
        self._spawn(old.channel.close(Reason.DUPLICATE))
        self._part(old, Reason.DUPLICATE)

    def _greet(self, contact: Contact) -> None:
        """Tell the caller, tell the new neighbour of the others, and the others of it."""
        node = contact.channel.node
        self._tell("joined", node, contact.url, None)
        self._gossip(node)
        whereabouts = contact.whereabouts()
        if whereabouts is not None:
            message = encode_gossip([whereabouts])
            for other in list(self._contacts.values()):
                if other is not contact and other.shares(whereabouts):
                    other.channel.send(message)
        self._on_join(self._snapshot(contact))

    def _part(self, contact: Contact, reason: str) -> None:
        self._tell("left", contact.channel.node, contact.url, reason)
        self._on_leave(self._snapshot(contact), str(reason))

    def _snapshot(self, contact: Contact) -> Neighbour:
        return contact.neighbour(static=self._acquaintances.named(contact.channel.node))

    def _gossip(self, node: str) -> None:
        """Tell a neighbour where the others are."""
        listener = self._contacts[node]
        known = [contact.whereabouts() for contact in self._contacts.values() if contact is not listener]
        entries = [entry for entry in known if entry is not None and listener.shares(entry)]
        if entries:
            listener.channel.send(encode_gossip(entries))

    # Housekeeping ------------------------------------------------------------------------------

    def _tell(self, state: str, node: str | None, url: str | None, reason: str | None) -> None:
        """Emit an event, unless there were too many lately."""
        now_s = self._loop.time()
        if self._quota.take(1, now_s) > 0:
            self._quota.take(-1, now_s)  # What is not said costs nothing.
            return
        self._emit({"event": "peer", "state": state, "node": node, "url": url, "reason": reason and str(reason)})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task about neighbours failed", exc_info=task.exception())
