"""Chunks, inventories and sessions for tests of the swarm."""

from p2psync.content import Digest
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Chunk, Place
from p2psync.swarm import Inventory, Session

ROOT = Digest.of(b"a version")


def chunks(count, length=CHUNK_BYTES):
    return [Chunk(i, Digest.of(i.to_bytes(4, "little")), length, (Place(0, i * length),)) for i in range(count)]


def session(table, *, have=(), wanted=None, **options):
    count = len(table)
    return Session(table, range(count) if wanted is None else wanted, Inventory(count, have), root=ROOT, **options)


def indexes(ask):
    return [] if ask is None else [chunk.index for chunk in ask.chunks]


def bring(pull, ask, now_s):
    """Everything that ``ask`` asked for arrives."""
    if ask.part is None:
        for chunk in ask.chunks:
            ask.meter.received += chunk.length
            pull.arrived(ask, chunk, now_s)
    else:
        ask.meter.received = ask.part.length
        if pull.landed(ask, now_s):
            pull.arrived(ask, ask.chunks[0], now_s)
    pull.ended(ask, None, now_s)
