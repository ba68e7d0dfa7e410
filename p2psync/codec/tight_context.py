"""Hides which context the differences of a chunk are sorted by: the classes of exponent and activity that pay.

The context of an element is a key of one byte: twice its base exponent plus how calm its block is in half octaves,
modulo 256. Both move the expected size of a difference by the same factor, so one number stands for the two.
Neighbouring keys make a class where their differences are distributed so alike that a table of their own would cost
more than it saves; the cheapest split of all keys into such runs is found by dynamic programming over estimated sizes
(order-0 entropy of the differences, in quarter octaves, and what a packed vector costs beside its numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.codec.layout import Layout

# Activity of a block in which nothing changed, and of one in which as much changed as its exponents let expect (or of
# every element where no activity is told). 64 keeps the keys of weights between 2^-31 and 2^96 in order.
UNTOUCHED: Final = 0
_USUAL: Final = 64
# Half octaves away from usual; beyond, differences are rare enough.
_REACH: Final = 24
# Larger blocks cost less to describe, smaller ones follow rows of tensors closer.
_BLOCKS: Final = (7, 9)
_KEYS: Final = 256
_BUCKETS: Final = 260
# Upper eleven bits of a float of size one, less one: buckets count from there.
_ZERO: Final = 507
# The context of a chunk is chosen by about so many of its elements, in stretches of 2^10.
_SAMPLE: Final = 1 << 17
_STRETCH: Final = 1 << 10
# Estimated bits of a class beside its numbers: lengths and headers, and each bucket in its table.
_CLASS_BITS: Final = 150.0
_BUCKET_BITS: Final = 10.0

# Where one in so many elements of a class changed, or fewer, telling which is hardly longer, and much faster to read.
_CALM: Final = 32
# Sorting takes most of the time of reading, so it must leave less than this of the plain difference.
_WORTH: Final = 0.985
_NOTHING: Final = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Context:
    """How elements are sorted.

    ``activity`` has a byte for each block of 2 to the power of ``block`` elements, or is None and ``block`` is 0.
    Keys up to ``bounds[i]`` and above the bound before are class i; what is above the last bound is one more class.
    Only a class that is ``moving`` is worth its place in the order: of the others, what changed is told one by one.
    """

    block: int
    activity: NDArray[np.uint8] | None
    bounds: tuple[int, ...]
    moving: tuple[bool, ...]


def keys(base: NDArray[Any], layout: Layout, activity: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The key of each element of ``base``, shape (elements,).

    Where the dtype has no exponent it is that of each block, and so the activity itself.
    """
    if not layout.exponent_bits:
        return np.full(base.size, _USUAL, np.uint8) if activity is None else activity
    key: NDArray[np.uint8] = (base >> base.dtype.type(layout.mantissa_bits - 1)).astype(np.uint8)
    key &= np.uint8((2 << layout.exponent_bits) - 2 & 0xFF)
    if activity is None:
        key += np.uint8(_USUAL)
    elif activity.size:
        rows = key.reshape(activity.size, -1)
        rows += activity[:, None]
    return key


def choose(base: NDArray[Any], change: NDArray[Any], layout: Layout) -> Context | None:
    """The context that promises the smallest body for ``change``, shape (elements >= 1,), against ``base``.

    None where none promises to be worth the time that sorting takes, compared with the plain difference.
    """
    moved = _sample(change)
    weight = change.size / moved.size
    plain, bucket = keys(_sample(base), layout, None), _buckets(moved)
    joint = _joint(plain, bucket)
    bits, bounds = _split(joint, weight)
    best = Context(0, None, bounds, _moving(joint, bounds))
    blocks = [block for block in _BLOCKS if change.size % (1 << block) == 0]
    found, expected = _sizes(base, change, layout, joint) if blocks else (_NOTHING, _NOTHING)
    for block in blocks:
        activity = _activity(found, expected, 1 << block - _BLOCKS[0])
        seen = activity if moved.size == change.size else _sample(activity, _STRETCH >> block)
        live = seen != UNTOUCHED
        rows = plain.reshape(live.size, -1)[live] + (seen[live] - np.uint8(_USUAL))[:, None]
        seen_joint = _joint(rows.ravel(), bucket.reshape(live.size, -1)[live].ravel())
        variant, bounds = _split(seen_joint, weight)
        variant += _CLASS_BITS + float(_entropy(np.bincount(activity)))
        if variant < bits:
            bits, best = variant, Context(block, activity, bounds, _moving(seen_joint, bounds))
    # Sizes within a bucket are told bit by bit, sorted or not.
    octaves = np.maximum((np.arange(_BUCKETS) % (_BUCKETS // 2) - 1) // 4 - 2, 0)
    within = weight * float((joint.sum(0) * octaves).sum())
    unsorted = _split(joint.sum(0, keepdims=True), weight)[0]
    return best if bits + within < _WORTH * (unsorted + within) else None


def _sample(array: NDArray[Any], stretch: int = _STRETCH) -> NDArray[Any]:
    """One stretch of ``array`` in so many, or all of it where it is small or no multiple of a stretch."""
    step = array.size // (_SAMPLE * stretch // _STRETCH)
    return array if step < 2 or array.size % stretch else array.reshape(-1, stretch)[::step].ravel()


def _buckets(change: NDArray[Any]) -> NDArray[np.int64]:
    """Differences as numbers below 260: the sign, and the size exactly up to 7, then in quarter octaves."""
    bits = change.astype(np.float32).view(np.uint32) >> np.uint32(21)
    bucket = np.maximum(bits & np.uint32(0x3FF), np.uint32(_ZERO)) - np.uint32(_ZERO)
    bucket += (bits >> np.uint32(10)) * np.uint32(_BUCKETS // 2)
    return np.asarray(bucket, np.int64)


def _joint(key: NDArray[np.uint8], bucket: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many elements have each key and bucket, shape (256, 260)."""
    return np.bincount(key * np.int64(_BUCKETS) + bucket, minlength=_KEYS * _BUCKETS).reshape(_KEYS, _BUCKETS)


def _sizes(
    base: NDArray[Any], change: NDArray[Any], layout: Layout, joint: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What changed in each finest block in all, and what the keys of its elements let expect."""
    bucket = np.arange(_BUCKETS) % (_BUCKETS // 2)
    size = np.where(bucket, (bucket + _ZERO << 21).astype(np.uint32).view(np.float32), 0)
    held = np.maximum(joint.sum(1), 1)
    mean = ((joint * size).sum(1) / held).astype(np.float32)
    # One element that became another altogether says nothing about its neighbours.
    most = np.float32(255 + 16 * float((joint * size).sum()) / int(joint.sum()))
    moved = np.minimum(np.abs(change.astype(np.float32)), most)
    expected = mean.take(keys(base, layout, None))
    finest = (-1, 1 << _BLOCKS[0])
    return moved.reshape(finest).sum(1), expected.reshape(finest).sum(1)


def _activity(found: NDArray[np.float32], expected: NDArray[np.float32], finest: int) -> NDArray[np.uint8]:
    """How calm each block of ``finest`` finest blocks is: 64 minus twice the binary logarithm of found to expected."""
    found, expected = found.reshape(-1, finest).sum(1), expected.reshape(-1, finest).sum(1)
    calm = np.clip(np.round(-2 * np.log2((found + 0.3) / (expected + 0.3))), -_REACH, _REACH)
    return np.where(found == 0, UNTOUCHED, _USUAL + calm).astype(np.uint8)


def _entropy(counts: NDArray[Any]) -> Any:
    """Bits of order-0 coding for each row of ``counts``, shape (..., symbols)."""
    total = counts.sum(-1)
    inner = (counts * np.log2(np.maximum(counts, 1))).sum(-1)
    return total * np.log2(np.maximum(total, 1)) - inner


def _split(joint: NDArray[np.int64], weight: float) -> tuple[float, tuple[int, ...]]:
    """The cheapest runs of keys: their estimated bits, and the last key of each but the last."""
    joint = joint[:, joint.any(0)]
    ends = _groups(joint.sum(1))
    below = np.concatenate((np.zeros((1, joint.shape[1])), np.cumsum(joint, 0)[ends].astype(float)))
    bits, came = np.zeros(len(ends) + 1), [0] * (len(ends) + 1)
    for end in range(1, len(ends) + 1):
        counts = below[end] - below[:end]
        table = _CLASS_BITS + _BUCKET_BITS * (counts > 0).sum(1)
        cost = bits[:end] + weight * _entropy(counts) + table
        came[end] = int(np.argmin(cost))
        bits[end] = cost[came[end]]
    cuts, at = [], came[-1]
    while at:
        cuts.append(ends[at - 1])
        at = came[at]
    return float(bits[-1]), tuple(reversed(cuts))


def _moving(joint: NDArray[np.int64], bounds: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether enough changed in each class."""
    starts = [0, *(bound + 1 for bound in bounds)]
    held, still = (np.add.reduceat(counts, starts) for counts in (joint.sum(1), joint[:, 0]))
    return tuple(((held - still) * _CALM > held).tolist())


def _groups(elements: NDArray[np.int64]) -> list[int]:
    """The last key of each group: rare keys go with the next one, or the last ones with those before."""
    least = max(int(elements.sum()) >> 9, 64)
    ends, held = [], 0
    for key in np.flatnonzero(elements).tolist():
        held += int(elements[key])
        if held >= least:
            ends.append(key)
            held = 0
    if held and ends:
        ends[-1] = elements.size - 1
    return ends or [elements.size - 1]
