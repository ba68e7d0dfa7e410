"""What nodes of a site tell each other about one version, as values and as bytes. Pure.

Ages travel instead of clock times, because no two clocks agree. A chunk is named by its number in manifest order,
a version by the first bytes of its root. ``docs/protocol.md`` has every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import MalformedError
from p2psync.limits import CHUNKS_PER_VERSION_MAX, CLAIMS_IN_MESSAGE_MAX, INDEXES_IN_MESSAGE_MAX
from p2psync.swarm.inventory import Inventory, decode_runs, encode_runs
from p2psync.swarm.varint import read_varint, varint

TOPIC_BYTES: Final = 8
# Tags below this belong to the channel itself (gossip, keepalive).
FIRST_TAG: Final = 0x01


@dataclass(frozen=True, slots=True)
class Job:
    """A chunk that a node is bringing: bytes that have arrived, and since when it is asked for.

    ``outside`` is false for the only copy on the LAN.
    """

    index: int
    received: int
    age_ms: int
    outside: bool = True


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node holds of a version and whether it wants the rest. Answered by the other's own, once.

    ``selection`` is the same for nodes that want the same chunks. ``outside`` is whether it reaches a source out there.
    """

    root: Digest
    wants: bool
    outside: bool
    answer: bool
    selection: bytes
    have: Inventory
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The sender is fetching these chunks now: from outside, or from the only holder on the LAN.

    ``again`` marks the second request for a chunk whose first is late.
    """

    topic: bytes
    outside: bool
    again: bool
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Beat:
    """Twice a second: claims told again, bytes received, and what the sender measured (bytes/s, 0 is unknown).

    ``outside_rate`` is per connection, ``lan_rate`` the best at which it gave chunks to others.
    """

    topic: bytes
    outside: bool
    outside_rate: int
    lan_rate: int
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Have:
    """Chunks that were proved at the sender since it last said so."""

    topic: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Claims that the sender gives back."""

    topic: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Chunks that are no longer at the sender."""

    topic: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The sender wants nothing more of this version. What it holds it goes on giving."""

    topic: bytes


Message: TypeAlias = Hello | Claim | Beat | Have | Release | Lost | Leave
_Lists: TypeAlias = type[Have] | type[Release] | type[Lost]
_LIST_TAGS: Final[dict[int, _Lists]] = {0x04: Have, 0x05: Release, 0x06: Lost}


def topic_of(root: Digest) -> bytes:
    """How messages after the first name a version."""
    return root[:TOPIC_BYTES]


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case Hello():
            flags = message.wants | message.outside << 1 | message.answer << 2
            jobs = _encode_jobs(message.jobs)
            return b"".join(
                (
                    bytes((0x01, flags)),
                    message.root,
                    message.selection,
                    varint(message.have.count),
                    varint(len(jobs)),
                    jobs,
                    message.have.to_bytes(),
                )
            )
        case Claim():
            head = bytes((0x02, message.outside | message.again << 1))
            return head + message.topic + encode_runs(message.indexes)
        case Beat():
            rates = varint(message.outside_rate) + varint(message.lan_rate)
            return bytes((0x03, message.outside)) + message.topic + rates + _encode_jobs(message.jobs)
        case Leave():
            return bytes((0x07,)) + message.topic
    tag = next(tag for tag, kind in _LIST_TAGS.items() if isinstance(message, kind))
    return bytes((tag,)) + message.topic + encode_runs(message.indexes)


def decode(data: bytes, count_of: Callable[[bytes], int | None]) -> Message | None:
    """Read a message. ``count_of`` says how many chunks the version of a topic has, None where it is not known here.

    Returns None for a version that is not known here, except a ``Hello``, which says what it speaks of.

    Raises:
        MalformedError: the bytes are no message, or speak of more chunks than the version has or one message may.
    """
    tag = data[0] if data else 0
    if tag == 0x01:
        return _decode_hello(data, count_of)
    flagged = tag in (0x02, 0x03)
    begin = 1 + flagged
    topic = bytes(data[begin : begin + TOPIC_BYTES])
    if len(topic) != TOPIC_BYTES or not (flagged or tag in _LIST_TAGS or tag == 0x07):
        raise MalformedError(f"no message begins with {data[:2].hex()!r}")
    count = count_of(topic)
    if count is None:
        return None
    place = begin + TOPIC_BYTES
    if tag == 0x07:
        if len(data) != place:
            raise MalformedError("bytes follow a message")
        return Leave(topic)
    if tag == 0x03:
        if data[1] > 1:
            raise MalformedError(f"unknown flags {data[1]:#x}")
        outside_rate, place = read_varint(data, place)
        lan_rate, place = read_varint(data, place)
        return Beat(topic, bool(data[1]), outside_rate, lan_rate, _decode_jobs(data[place:], count))
    if tag == 0x02:
        if data[1] > 3:
            raise MalformedError(f"unknown flags {data[1]:#x}")
        indexes = _decode_indexes(data[place:], count, CLAIMS_IN_MESSAGE_MAX)
        return Claim(topic, bool(data[1] & 1), bool(data[1] & 2), indexes)
    return _LIST_TAGS[tag](topic, _decode_indexes(data[place:], count, INDEXES_IN_MESSAGE_MAX))


def _decode_indexes(data: bytes, count: int, most: int) -> tuple[int, ...]:
    indexes: list[int] = []
    # Six bytes may speak of millions of chunks: the bound is checked before they are counted out.
    for start, end in decode_runs(data, count):
        if len(indexes) + end - start > most:
            raise MalformedError(f"a message speaks of more than {most} chunks")
        indexes.extend(range(start, end))
    return tuple(indexes)


def _decode_hello(data: bytes, count_of: Callable[[bytes], int | None]) -> Hello:
    place = 2 + DIGEST_BYTES + TOPIC_BYTES
    if len(data) < place or data[1] > 7:
        raise MalformedError("a hello ends too early or has unknown flags")
    count, place = read_varint(data, place)
    known = count_of(topic_of(Digest(data[2 : 2 + DIGEST_BYTES])))
    if count > CHUNKS_PER_VERSION_MAX or known not in (None, count):
        raise MalformedError(f"a version of {count} chunks, where {known} are known")
    size, place = read_varint(data, place)
    if size > len(data) - place:
        raise MalformedError("a hello ends within its jobs")
    jobs = _decode_jobs(data[place : place + size], count)
    have = Inventory.from_wire(data[place + size :], count)
    root, selection = Digest(data[2 : 2 + DIGEST_BYTES]), bytes(data[2 + DIGEST_BYTES : 2 + DIGEST_BYTES + TOPIC_BYTES])
    return Hello(root, bool(data[1] & 1), bool(data[1] & 2), bool(data[1] & 4), selection, have, jobs)


def _encode_jobs(jobs: Sequence[Job]) -> bytes:
    return b"".join(varint(n) for job in jobs for n in (job.index << 1 | job.outside, job.received, job.age_ms))


def _decode_jobs(data: bytes, count: int) -> tuple[Job, ...]:
    jobs: list[Job] = []
    place = 0
    while place < len(data):
        number, place = read_varint(data, place)
        received, place = read_varint(data, place)
        age_ms, place = read_varint(data, place)
        if number >> 1 >= count or len(jobs) == CLAIMS_IN_MESSAGE_MAX:
            raise MalformedError(f"job {len(jobs)} is on chunk {number >> 1} of {count}")
        jobs.append(Job(number >> 1, received, age_ms, bool(number & 1)))
    return tuple(jobs)
