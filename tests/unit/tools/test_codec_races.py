"""Codecs are measured on the same bytes, and one that gives back others is no competitor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import weights
from benchmarks import race, samples
from benchmarks.samples import Chunk, Sample
from p2psync.limits import MIB


def same() -> race.Codec:
    return race.Codec(lambda: b"abcd", lambda made: made)


def entry(codec: race.Codec, raw: bytes = b"abcd", of_bytes: int = 8) -> race.Entry:
    return race.Entry(codec, raw, of_bytes)


def test_other_bytes_end_the_race():
    """A wrong decoder would otherwise be the fastest."""
    with pytest.raises(RuntimeError, match="liar gave back other bytes"):
        race.run({"liar": entry(race.Codec(lambda: b"abcd", lambda _: b"abce"))}, 1)


def test_pieces_count_as_the_whole_that_they_make():
    """Ours are decoded chunk by chunk."""
    pieces = race.Codec(lambda: [b"ab", b"cd"], lambda made: [bytearray(made[0]), made[1]], len)
    found = race.run({"pieces": entry(pieces)}, 1)["pieces"]
    assert (found.encoded_bytes, found.percent) == (2, 25.0)


def test_slow_codecs_run_fewer_rounds_and_the_order_turns():
    """So that nobody always runs in the cache that another one warmed."""
    order = []

    def told(name: str, rounds_max: int) -> race.Codec:
        return race.Codec(lambda: order.append(name) or b"abcd", lambda made: made, rounds_max=rounds_max)

    found = race.run({"a": entry(told("a", 9)), "b": entry(told("b", 1)), "c": entry(told("c", 9))}, 3)
    assert "".join(order) == "abc" + "ca" + "ac"
    assert [len(found[name].encode_s) for name in "abc"] == [3, 1, 3]


def test_a_method_without_decoding_has_no_rate_of_it():
    """Content-defined cutting puts pieces side by side."""
    found = race.run({"cut": entry(replace(same(), decode=None))}, 1)["cut"]
    assert (found.decode_s, found.decode_mbs) == ([], 0.0)


def a_sample(megabytes: int, changed: set[int]) -> Sample:
    base = np.zeros(megabytes * MIB, np.uint8)
    raw = base.copy()
    for number in changed:
        raw[number * MIB] = 1
    spans = [slice(number * MIB, (number + 1) * MIB) for number in range(megabytes)]
    chunks = [Chunk("w", span.start, raw[span], base[span]) for span in spans]
    tensors = {"w": weights.Weights("I8", (raw.size,), raw)}
    return Sample("a sample", "I8", tensors, {"w": weights.Weights("I8", (base.size,), base)}, chunks)


def test_a_part_is_spread_over_the_whole():
    """Its tensors are named for their places, so that both versions have the same."""
    part = a_sample(8, set()).part(2)
    assert [chunk.first_byte // MIB for chunk in part.chunks] == [2, 6]
    assert list(part.tensors) == list(part.base) == [f"w.{2 * MIB}", f"w.{6 * MIB}"]
    assert len(part.payload) == len(part.base_payload) == 2 * MIB


def test_a_small_sample_is_its_own_part():
    """Nothing is left out where there is no more."""
    sample = a_sample(2, set())
    assert sample.part(2) is sample


def test_only_what_changed_has_to_move():
    """One byte is enough."""
    sample = a_sample(4, {1, 3})
    assert [chunk.first_byte // MIB for chunk in sample.changed().chunks] == [1, 3]


def test_a_version_is_cut_beside_its_base(tmp_path):
    """A tensor that the base lacks has nothing beside it; another type is no part of the sample."""
    old = {"w": weights.Weights("BF16", (2,), np.arange(4, dtype=np.uint8))}
    new = {"w": old["w"], "v": old["w"], "scale": weights.Weights("F32", (1,), np.zeros(4, np.uint8))}
    weights.write(tmp_path / "old" / "bf16.safetensors", old)
    weights.write(tmp_path / "new" / "bf16.safetensors", new)
    sample = samples.load("pair", "BF16", tmp_path / "new", tmp_path / "old")
    assert [(chunk.tensor, chunk.base.size, chunk.changed) for chunk in sample.chunks] == [
        ("w", 4, False),
        ("v", 0, True),
    ]
