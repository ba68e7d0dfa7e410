"""Fields of JSON from outside: what is wrong is refused by its place, and what is true is no number."""

import math

import pytest

from p2psync.engine.strict_json import parse_object
from p2psync.errors import MalformedError
from p2psync.limits import ENGINE_FILE_DEPTH_MAX, INTEGER_MAX, WORD_CHARS_MAX

TEXTS = {
    "no JSON": (b"{", "probe is no JSON"),
    "no text": (b'{"a": "\xff"}', "probe is no JSON"),
    "no object": (b"[1]", "probe is no JSON object"),
    "too long": (b'{"a": "' + b"x" * 100 + b'"}', "probe is longer than 100 bytes"),
    "deep": (b'{"a":' * 9 + b"1" + b"}" * 9, f"probe is nested deeper than {ENGINE_FILE_DEPTH_MAX}"),
    "a key twice": (b'{"a": 1, "a": 1}', "a key stands twice"),
    "no number": (b'{"a": NaN}', "NaN is no number"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_each_text_is_refused_by_its_own_rule(case):
    """One object, one value for a key, numbers that are numbers."""
    data, why = TEXTS[case]
    with pytest.raises(MalformedError, match=why):
        parse_object(data, "probe", bytes_max=100)


FIELDS = [
    ("integer", b"true", (), "probe: a: no integer from 0"),
    ("integer", b"1.0", (), "probe: a: no integer from 0"),
    ("integer", b"-1", (), "probe: a: no integer from 0"),
    ("integer", b"9", (0, 8), "probe: a: no integer from 0 to 8"),
    ("number", b"true", (0, 8), "probe: a: no number from 0 to 8"),
    ("number", b"9", (0, 8), "probe: a: no number from 0 to 8"),
    ("number", b"1e999", (0, math.inf), "probe: a: no number from 0 to inf"),
    ("numbers", b'[1, "2"]', (2,), "probe: a: no number from -inf to inf"),
    ("integers", b"[1, true]", (2,), "probe: a: not all integers from 0"),
    ("integers", b"[1, -1]", (2,), "probe: a: not all integers from 0"),
    ("integers", b"[1, 2.0]", (2,), "probe: a: not all integers from 0"),
    ("integers", b"[%d]" % (INTEGER_MAX + 1), (2,), "probe: a: not all integers from 0"),
    ("integers", b"[1, 2, 3]", (2,), "probe: a: no list of at most 2"),
    ("list", b"[1, 2, 3]", (2,), "probe: a: no list of at most 2"),
    ("list", b'{"0": 1}', (2,), "probe: a: no list of at most 2"),
    ("list", b'"12"', (2,), "probe: a: no list of at most 2"),
    ("text", b"1", (), "probe: a: no text of at most 4096 characters"),
    ("text", b'"%s"' % (b"x" * 4097), (), "probe: a: no text of at most 4096 characters"),
    ("text", b'"a\\u0000"', (), "probe: a: no text of at most 4096 characters"),
    ("text", b'"a\\ud800"', (), "probe: a: no text of at most 4096 characters"),
    ("word", b'"%s"' % (b"x" * (WORD_CHARS_MAX + 1)), (), f"probe: a: no text of at most {WORD_CHARS_MAX} characters"),
    ("word", b'""', (), "probe: a: empty"),
    ("object", b"[]", (), "probe: a: no object"),
    ("digest", b'"b3:00"', (), "not a digest"),
]


@pytest.mark.parametrize(("kind", "value", "bounds", "why"), FIELDS)
def test_each_field_is_refused_by_its_own_rule(kind, value, bounds, why):
    """The file, the field and what should have stood there are named."""
    fields = parse_object(b'{"a": %s, "b": null}' % value, "probe")
    with pytest.raises(MalformedError, match=why):
        getattr(fields, kind)("a", *bounds)


def test_what_is_not_there_is_missing_and_what_nobody_took_is_left():
    """A null is as good as nothing where a field may be left out; a field that was taken is not left."""
    fields = parse_object(b'{"a": 1, "b": null, "c": [2, 3]}', "probe")
    assert (fields.integer("a"), fields.has("b"), fields.has("c")) == (1, False, True)
    assert fields.rest() == {"c": [2, 3]}
    with pytest.raises(MalformedError, match="probe: a: missing"):
        fields.integer("a")
    assert fields.integers("c", 2) == (2, 3)
