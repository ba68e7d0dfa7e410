"""The picker decides who is asked for what; these tests play the world around it in virtual time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Chunk, Place
from p2psync.swarm import Fault, Picker, TokenBucket
from p2psync.swarm.picker import LATE_FLOOR_S, NONSENSE_MAX, REST_FIRST_S, SILENT_S


def chunks(count: int, length: int = CHUNK_BYTES) -> list[Chunk]:
    return [Chunk(i, Digest.of(i.to_bytes(4, "little")), length, (Place(0, i * length),)) for i in range(count)]


def bits(*held: int, count: int = 64) -> bytes:
    return sum(1 << i for i in held).to_bytes((count + 7) // 8, "little")


def indexes(batch: list[Chunk]) -> list[int]:
    return [c.index for c in batch]


def test_two_sources_never_share_a_fresh_chunk() -> None:
    """Each chunk is asked from one source while there is other work."""
    picker = Picker(chunks(8))
    picker.join("a", outside=False, holds=None, now_s=0)
    picker.join("b", outside=False, holds=None, now_s=0)
    asked = [i for _ in range(4) for name in "ab" for i in indexes(picker.next_batch(name, 0))]
    assert sorted(asked) == list(range(8))


def test_lan_chunks_are_not_asked_outside() -> None:
    """A chunk that a fit LAN source holds is left to it; the outside link carries only the rest."""
    picker = Picker(chunks(6))
    picker.join("peer", outside=False, holds=bits(0, 1, 2, 3), now_s=0)
    picker.join("seed", outside=True, holds=None, now_s=0)
    assert indexes(picker.next_batch("seed", 0)) == [4]
    assert indexes(picker.next_batch("seed", 0)) == [5]
    assert picker.next_batch("seed", 0) == []


def test_outside_takes_over_when_the_peer_leaves() -> None:
    """What only a departed peer held is asked outside."""
    picker = Picker(chunks(2))
    picker.join("peer", outside=False, holds=None, now_s=0)
    picker.join("seed", outside=True, holds=None, now_s=0)
    assert indexes(picker.next_batch("peer", 0)) == [0]
    assert picker.next_batch("seed", 0) == []
    picker.leave("peer")
    assert indexes(picker.next_batch("seed", 0)) == [0]


def test_rival_may_leave_before_its_request_was_stopped() -> None:
    """A source that still has a request for a chunk that another one brought can leave like any other."""
    picker = Picker(chunks(1))
    picker.join("late", outside=False, holds=None, now_s=0)
    picker.join("quick", outside=False, holds=None, now_s=0)
    (chunk,) = picker.next_batch("late", 0)
    later_s = LATE_FLOOR_S * 100
    assert picker.next_batch("quick", later_s) == [chunk]
    assert picker.misses(chunk.index)
    assert picker.arrived("quick", chunk, later_s) == ["late"]
    assert not picker.misses(chunk.index)
    picker.leave("late")
    assert picker.is_banned("late")
    assert picker.done


def test_outside_takes_over_when_the_peer_is_silent() -> None:
    """A peer that owes chunks and says nothing is passed over, and trusted again once it delivers."""
    all_chunks = chunks(3)
    picker = Picker(all_chunks)
    picker.join("peer", outside=False, holds=None, now_s=0)
    picker.join("seed", outside=True, holds=None, now_s=0)
    picker.next_batch("peer", 0)
    assert picker.next_batch("seed", 0) == []
    assert picker.tick(SILENT_S + 0.1) == ["peer"]
    assert indexes(picker.next_batch("seed", SILENT_S + 0.1)) == [1]
    picker.arrived("peer", all_chunks[0], SILENT_S + 1)
    assert picker.next_batch("seed", SILENT_S + 1) == []


def test_late_chunk_is_doubled_once_and_the_loser_stopped() -> None:
    """An idle source asks once more for a late chunk; a third request is never made."""
    all_chunks = chunks(1)
    picker = Picker(all_chunks)
    for name in ("slow", "fast", "third"):
        picker.join(name, outside=False, holds=None, now_s=0)
    picker.next_batch("slow", 0)
    assert picker.next_batch("fast", LATE_FLOOR_S / 2) == []
    assert indexes(picker.next_batch("fast", LATE_FLOOR_S * 2)) == [0]
    assert picker.next_batch("third", LATE_FLOOR_S * 9) == []
    assert picker.arrived("fast", all_chunks[0], LATE_FLOOR_S * 10) == ["slow"]
    assert picker.done


def test_first_bad_chunk_costs_the_chunk_and_the_second_bans() -> None:
    """Blame is exact: one rotten chunk is not a lie yet."""
    all_chunks = chunks(3)
    picker = Picker(all_chunks)
    picker.join("a", outside=False, holds=None, now_s=0)
    assert indexes(picker.next_batch("a", 0)) == [0]
    picker.failed("a", [all_chunks[0]], Fault.CORRUPT, 0)
    assert not picker.is_banned("a")
    assert indexes(picker.next_batch("a", 0)) == [1]
    assert indexes(picker.hopeless()) == [0]
    picker.failed("a", [all_chunks[1]], Fault.CORRUPT, 0)
    assert picker.is_banned("a")
    assert indexes(picker.hopeless()) == [0, 1, 2]


def test_withdrawn_chunk_is_asked_elsewhere() -> None:
    """A source that no longer has a chunk keeps serving the others."""
    all_chunks = chunks(2)
    picker = Picker(all_chunks)
    picker.join("a", outside=False, holds=None, now_s=0)
    picker.next_batch("a", 0)
    picker.failed("a", all_chunks[:1], Fault.WITHDRAWN, 0)
    assert indexes(picker.next_batch("a", 0)) == [1]
    picker.join("b", outside=False, holds=None, now_s=0)
    assert indexes(picker.next_batch("b", 0)) == [0]


def test_broken_source_rests_longer_each_time_and_returns() -> None:
    """A restarted seed is asked again; one that stays down is asked ever more rarely, never forgotten."""
    all_chunks = chunks(1)
    picker = Picker(all_chunks)
    picker.join("seed", outside=True, holds=None, now_s=0)
    rests = []
    now_s = 0.0
    for _ in range(8):
        assert indexes(picker.next_batch("seed", now_s)) == [0]
        picker.failed("seed", all_chunks, Fault.BROKEN, now_s)
        assert picker.next_batch("seed", now_s) == []
        rests.append(picker.rest_s("seed", now_s))
        now_s += rests[-1]
    assert rests[0] == REST_FIRST_S
    assert rests == sorted(rests)
    assert rests[-1] == rests[-2]
    assert not picker.is_banned("seed")


def test_nonsense_bans_after_three_and_success_forgives() -> None:
    """Answers outside the protocol ban a source only when nothing good stands between them."""
    all_chunks = chunks(2 + NONSENSE_MAX)
    picker = Picker(all_chunks)
    picker.join("a", outside=False, holds=None, now_s=0)
    now_s = 0.0
    for _ in range(NONSENSE_MAX - 1):
        now_s += 10
        picker.failed("a", picker.next_batch("a", now_s), Fault.NONSENSE, now_s)
    (good,) = picker.next_batch("a", now_s + 10)
    picker.arrived("a", good, now_s + 10)
    for _ in range(NONSENSE_MAX):
        now_s += 20
        assert not picker.is_banned("a")
        picker.failed("a", picker.next_batch("a", now_s), Fault.NONSENSE, now_s)
    assert picker.is_banned("a")


def test_small_chunks_travel_together() -> None:
    """A batch is bounded by bytes, so twenty thousand tiny tensors do not make as many requests."""
    picker = Picker(chunks(3000, length=100))
    picker.join("a", outside=False, holds=None, now_s=0)
    assert len(picker.next_batch("a", 0)) == 1024


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), liars=st.integers(0, 3))
def test_converges_whenever_one_honest_source_holds_everything(seed: int, count: int, liars: int) -> None:
    """With one honest source and time every chunk arrives, no honest source is banned, none is asked by three."""
    rng = random.Random(seed)
    all_chunks = chunks(count)
    picker = Picker(all_chunks)
    now_s = 0.0
    names = ["honest"] + [f"liar{i}" for i in range(liars)]
    for name in names:
        held = None if name == "honest" else rng.getrandbits(count).to_bytes((count + 7) // 8, "little")
        picker.join(name, outside=rng.random() < 0.5, holds=held, now_s=0, start=rng.randrange(count))
    flying: list[tuple[float, str, list[Chunk]]] = []
    for _ in range(5000):
        if picker.done:
            break
        now_s += 0.1
        picker.tick(now_s)
        for name in names:
            batch = picker.next_batch(name, now_s)
            if batch:
                flying.append((now_s + rng.uniform(0.1, 6.0 if name != "honest" else 1.0), name, batch))
        asked = [c.index for _, _, batch in flying for c in batch]
        assert all(asked.count(i) <= 2 for i in set(asked))
        for due in [f for f in flying if f[0] <= now_s]:
            if due not in flying:
                continue
            flying.remove(due)
            _, name, batch = due
            for place, chunk in enumerate(batch):
                if name != "honest" and rng.random() < 0.5:
                    fault = rng.choice([Fault.CORRUPT, Fault.WITHDRAWN, Fault.BROKEN, Fault.NONSENSE])
                    picker.failed(name, batch[place:], fault, now_s)
                    break
                losers = picker.arrived(name, chunk, now_s)
                for other in list(flying):
                    if other[1] in losers and chunk in other[2]:
                        flying.remove(other)
                        picker.failed(other[1], other[2], Fault.CANCELLED, now_s)
    assert picker.done
    assert not picker.is_banned("honest")


def test_token_bucket_holds_its_rate() -> None:
    """Over a long run the bucket lets exactly its rate through, after the first burst."""
    bucket = TokenBucket(1000, 500, 0.0)
    now_s = 0.0
    for _ in range(100):
        now_s += bucket.take(250, now_s)
    assert now_s == pytest.approx((100 * 250 - 500) / 1000)
