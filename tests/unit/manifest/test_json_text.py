"""One value has one text, and whatever else is refused by what is wrong with it."""

import pytest

from p2psync.errors import MalformedError
from p2psync.manifest.json_text import decode_json, encode_json

REFUSED = {
    "no JSON": (b"{", "is no JSON as p2psync writes it"),
    "beyond ASCII": ('"ä"'.encode(), "is no JSON as p2psync writes it"),
    "a key twice": (b'{"a":1,"a":1}', "a key stands twice in one object"),
    "a key twice, once hidden": (b'{"a":1,"\\u0061":1}', "a key stands twice in one object"),
    "a key twice deep inside": (b'[{"b":{"a":1,"a":2}}]', "a key stands twice in one object"),
    "a fraction": (b"[1.5]", r"the number 1\.5 is no integer"),
    "no number": (b"[NaN]", "the number NaN is no integer"),
    "depth": (b"[[[[0]]]]", "nested deeper than 3"),
    "half of a pair": (b'["\\ud800"]', "holds half of a surrogate pair"),
    "a space": (b'{"a": 1}', "not in its one text"),
    "keys out of order": (b'{"b":1,"a":1}', "not in its one text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_text_is_refused_by_its_own_rule(case):
    """A reader that took the last of two keys, or a rounded number, would read what another did not sign."""
    data, why = REFUSED[case]
    with pytest.raises(MalformedError, match=why) as refusal:
        decode_json(data, depth_max=3, what="a statement")
    assert str(refusal.value).startswith("a statement ")


def test_what_is_written_is_read():
    """Text of any kind, integers of any size and nested values come back from the one text that they have."""
    value = {"b": [1 << 80, None, True, "ä\U0001f600"], "a": {"": -1}}
    assert decode_json(encode_json(value), depth_max=2, what="a value") == value
