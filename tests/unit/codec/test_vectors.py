"""Reading is frozen, and it is what docs/format.md says: a second reader, element by element, agrees with it."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from p2psync import codec
from p2psync.codec import Form, pco, zstd
from p2psync.codec.layout import LAYOUTS
from p2psync.errors import MalformedError

FOLDER = Path(__file__).parents[2] / "vectors" / "forms"


def load(name):
    """The vectors of one file, each with its name as its id."""
    return [pytest.param(vector, id=vector["name"]) for vector in json.loads((FOLDER / f"{name}.json").read_text())]


def parts(vector):
    return bytes.fromhex(vector["encoded"]), [bytes.fromhex(base) for base in vector["bases"]]


@pytest.mark.parametrize("vector", [*load("full"), *load("residual")])
def test_frozen_chunks_are_read_for_ever(vector):
    """An encoded chunk gives the chunk that it gave when it was made, whatever an encoder writes today."""
    encoded, bases = parts(vector)
    raw = bytes.fromhex(vector["raw"])
    assert encoded[0] == Form[vector["form"]]
    assert encoded[1] == (LAYOUTS[vector["dtype"]].code if vector["dtype"] in LAYOUTS else 0)
    assert codec.decode(encoded, bases, len(raw)) == raw


@pytest.mark.parametrize("vector", load("refused"))
def test_frozen_refusals_stay_refused(vector):
    """What is no encoded chunk is never taken for one."""
    encoded, bases = parts(vector)
    with pytest.raises(MalformedError):
        codec.decode(encoded, bases, vector["raw_bytes"])


@pytest.mark.parametrize("vector", [*load("full"), *load("residual")])
def test_today_s_encoder_is_read_as_well(vector):
    """The chunks of the vectors, encoded anew, are exact; the bytes between may differ."""
    encoded, bases = parts(vector)
    raw = bytes.fromhex(vector["raw"])
    if vector["form"] == "RESIDUAL":
        row, first = struct.unpack_from("<IQ", encoded, 2)
        again = codec.encode_residual(raw, *bases, row, first, vector["dtype"])
    else:
        again = codec.encode_full(raw, vector["dtype"])
    assert codec.decode(again, bases, len(raw)) == raw


def read_planes(body, size, count):
    """Elements of ``size`` bytes from planes, one number at a time."""
    columns, at = [], 1
    for number in range(size):
        if body[0] >> number & 1:
            length = int.from_bytes(body[at : at + 3], "little")
            columns.append(zstd.unpack(body[at + 3 : at + 3 + length], count))
            at += 3 + length
        else:
            columns.append(body[at : at + count])
            at += count
    assert at == len(body)
    turned = [int.from_bytes(bytes(column), "big") for column in zip(*columns, strict=True)]
    return [value >> 1 | (value & 1) << 8 * size - 1 for value in turned]


def value_of_f16(bits):
    exponent, mantissa = bits >> 10 & 31, bits & 1023
    size = Fraction(mantissa + 1024 * (exponent > 0)) * Fraction(2) ** (max(exponent, 1) - 25)
    return (-1.0 if bits >> 15 else 1.0) * float(size)


def read_full(encoded, raw_bytes):
    form, body = Form(encoded[0]), encoded[2:]
    if form is Form.PACKED:
        return zstd.unpack(body, raw_bytes)
    if form is Form.PLANES:
        size = 4 if encoded[1] == 3 else 2
        return b"".join(v.to_bytes(size, "little") for v in read_planes(body, size, raw_bytes // size))
    narrow = read_planes(body[1:], 2, raw_bytes // 4)
    if body[0] == 1:
        return b"".join(bytes(2) + bits.to_bytes(2, "little") for bits in narrow)
    return b"".join(struct.pack("<f", value_of_f16(bits)) for bits in narrow)


@pytest.mark.parametrize("vector", load("full"))
def test_a_plain_reader_of_full_forms_agrees(vector):
    """The description alone is enough to read every full form."""
    raw = bytes.fromhex(vector["raw"])
    assert read_full(parts(vector)[0], len(raw)) == raw


def nearest(product, exponent_bits, mantissa_bits):
    """The bit pattern of the float nearest to ``product``, a finite float, ties to even; sign apart."""
    bias = (1 << exponent_bits - 1) - 1
    size = Fraction(abs(product))
    exponent = 1
    while size >= Fraction(2) ** (exponent + 1 - bias):
        exponent += 1
    steps = round(size / Fraction(2) ** (exponent - bias - mantissa_bits))
    # What is rounded up to the next power of two carries into the exponent, and from the last one into infinity.
    bits = steps if steps < 1 << mantissa_bits else steps + (exponent - 1 << mantissa_bits)
    return min(bits, (1 << exponent_bits) - 1 << mantissa_bits)


def expectations(codes, scales, row, first, bits):
    """The pattern and the key of each code's product."""
    exponent_bits, mantissa_bits = bits
    for place, code in enumerate(struct.unpack(f"<{len(codes)}b", codes)):
        at = (first + place) // row * 4 % len(scales)
        (scale,), (pattern,) = (struct.unpack(kind, scales[at : at + 4]) for kind in ("<f", "<I"))
        with np.errstate(over="ignore"):
            product = float(np.float32(code) * np.float32(scale))
        infinity = (1 << exponent_bits) - 1 << mantissa_bits
        size = infinity if product in (float("inf"), float("-inf")) else nearest(product, exponent_bits, mantissa_bits)
        sign = (code < 0) != (pattern >> 31 == 1)
        exponent = size >> mantissa_bits
        if exponent_bits == 5:
            exponent = max(exponent, 1)
        key = (4 * exponent - (pattern >> 21) + 8) % 256 if code else 128
        yield size | sign << exponent_bits + mantissa_bits, key


@pytest.mark.parametrize("vector", load("residual"))
def test_a_plain_reader_of_residuals_agrees(vector):
    """Integers and exact fractions give the same products, keys and elements."""
    encoded, (codes, scales) = parts(vector)
    row, first = struct.unpack_from("<IQ", encoded, 2)
    expected = list(expectations(codes, scales, row, first, (5, 10) if vector["dtype"] == "F16" else (8, 7)))
    keys = sorted({key for _, key in expected})
    body = encoded[14:]
    at = 3 * len(keys)
    found = {}
    for number, key in enumerate(keys):
        length = int.from_bytes(body[3 * number : 3 * number + 3], "little")
        places = [place for place, (_, its) in enumerate(expected) if its == key]
        change = np.empty(len(places), np.int16)
        pco.unpack(body[at : at + length], change)
        at += length
        found |= {place: int(c) for place, c in zip(places, change, strict=True)}
    assert at == len(body)
    raw = b"".join(((bits + found[i]) % 65_536).to_bytes(2, "little") for i, (bits, _) in enumerate(expected))
    assert raw == bytes.fromhex(vector["raw"])
