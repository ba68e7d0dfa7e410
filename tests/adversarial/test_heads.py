"""Heads from attackers, replayed, spoilt or signed for something else: every one ends in a named error."""

import base64
import json

import pytest

from p2psync.errors import (
    BadSignatureError,
    ExpiredError,
    MalformedError,
    RollbackError,
    UnknownSignerError,
    UnsupportedVersionError,
    WrongHeadError,
)
from p2psync.limits import HEAD_BYTES_MAX
from p2psync.manifest import Reference, open_head, peek_head, sign_head
from p2psync.trust import TrustStore, accept
from tests.manifests import NOW_S, PUBLISHER, STRANGER, digest_of, payload_of, sample_head, signed

KEY = PUBLISHER.verify_key
REFERENCE = Reference("acme/wan")
GOOD = signed(payload_of())


@pytest.fixture
def trust(tmp_path):
    store = TrustStore(tmp_path / "trust")
    store.add("acme/*", KEY)
    return store


def text(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_honest_head_is_accepted(trust):
    """The head that the attacks below spoil is itself a good one."""
    assert accept(GOOD, REFERENCE, trust, NOW_S) == sample_head()


def test_every_bit_counts():
    """No bit of an envelope can change without a named refusal."""
    for bit in range(len(GOOD) * 8):
        spoilt = bytearray(GOOD)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadSignatureError, MalformedError, UnsupportedVersionError)):
            open_head(bytes(spoilt), KEY)


def test_every_cut_is_refused():
    """A head that is cut short anywhere is refused."""
    for size in range(len(GOOD)):
        with pytest.raises(MalformedError):
            open_head(GOOD[:size], KEY)


# Who says it ----------------------------------------------------------------------------------------------------------


def test_unknown_name(trust):
    """A name that no key is bound to: the error tells how to bind one, and which key the head names."""
    with pytest.raises(UnknownSignerError, match=KEY.key_id) as caught:
        accept(signed(payload_of(name="evil/wan")), Reference("evil/wan"), trust, NOW_S)
    assert "p2psync trust add 'evil/*'" in caught.value.hint


def test_garbage_for_an_unknown_name(trust):
    """Who is unknown stays unknown, whatever was sent."""
    with pytest.raises(UnknownSignerError):
        accept(b"garbage", Reference("evil/wan"), trust, NOW_S)


def test_other_signer(trust):
    """A head by a key that is not bound to its name is refused, and the error names that key."""
    with pytest.raises(BadSignatureError, match=STRANGER.verify_key.key_id):
        accept(signed(payload_of(), key=STRANGER), REFERENCE, trust, NOW_S)


def test_publisher_of_another_namespace(trust):
    """A trusted publisher cannot sign for a name that another publisher owns."""
    trust.add("other/*", STRANGER.verify_key)
    with pytest.raises(BadSignatureError):
        accept(signed(payload_of(), key=STRANGER), REFERENCE, trust, NOW_S)


def test_borrowed_key_id(trust):
    """The key id is a hint: with the right id and another key's signature, a head is refused."""
    sig = json.loads(signed(payload_of(), key=STRANGER))["signatures"][0]["sig"]
    envelope = signed(payload_of(), signatures=[{"keyid": KEY.key_id, "sig": sig}])
    with pytest.raises(BadSignatureError):
        accept(envelope, REFERENCE, trust, NOW_S)


def test_signature_of_another_head(trust):
    """A good signature over another payload is refused."""
    sig = json.loads(signed(payload_of(version=4)))["signatures"]
    with pytest.raises(BadSignatureError):
        accept(signed(payload_of(), signatures=sig), REFERENCE, trust, NOW_S)


def test_signature_over_the_bare_payload():
    """A signature that does not cover the type of the payload is refused."""
    payload = base64.b64decode(json.loads(GOOD)["payload"])
    sig = base64.b64encode(PUBLISHER.sign(payload)).decode()
    with pytest.raises(BadSignatureError):
        open_head(signed(payload, signatures=[{"keyid": KEY.key_id, "sig": sig}]), KEY)


# What it is said for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "payload"),
    [
        ("acme/wan", payload_of(name="acme/other")),
        ("acme/wan:stable", payload_of()),
        ("acme/wan", payload_of(tag="Latest")),
        (f"acme/wan@{digest_of('other')}", payload_of()),
        (f"acme/wan@{digest_of('root')}", payload_of(name="acme/other")),
    ],
    ids=["name", "tag", "case of a tag", "digest", "name, with the digest"],
)
def test_head_for_something_else(trust, asked, payload):
    """A head that its publisher signed for another name, tag or digest than was asked for is refused."""
    with pytest.raises(WrongHeadError):
        accept(signed(payload), Reference.parse(asked), trust, NOW_S)


def test_digest_says_more_than_a_tag(trust):
    """Asked for by digest, a version may have been signed under any tag of its name."""
    asked = Reference.parse(f"acme/wan:v1@{digest_of('root')}")
    assert accept(GOOD, asked, trust, NOW_S).tag == "latest"


# When it is said ------------------------------------------------------------------------------------------------------


def test_lower_version(trust):
    """A version lower than the one accepted last is refused; both are named, and so is the way back."""
    trust.raise_floor(sample_head(version=4, root=digest_of("new")))
    with pytest.raises(RollbackError, match=r"version 3 .* version 4") as caught:
        accept(GOOD, REFERENCE, trust, NOW_S)
    assert f"acme/wan@{digest_of('root')}" in caught.value.hint
    assert caught.value.behind


def test_lower_version_after_restart(trust, tmp_path):
    """The floor holds for whoever opens the same files later."""
    trust.raise_floor(sample_head(version=4))
    with pytest.raises(RollbackError):
        accept(GOOD, REFERENCE, TrustStore(tmp_path / "trust"), NOW_S)


def test_equal_version_with_another_root(trust):
    """Two contents under one version number are an equivocation, and named so."""
    trust.raise_floor(sample_head(root=digest_of("other")))
    with pytest.raises(RollbackError, match="equivocation") as caught:
        accept(GOOD, REFERENCE, trust, NOW_S)
    assert not caught.value.behind


def test_older_version_by_its_digest(trust):
    """An explicit digest may be older than the floor, and the floor stays where it is."""
    trust.raise_floor(sample_head(version=9, root=digest_of("new")))
    head = accept(GOOD, REFERENCE.at(digest_of("root")), trust, NOW_S)
    trust.raise_floor(head)
    assert trust.floor("acme/wan", "latest").version == 9


def test_floor_is_per_tag(trust):
    """A high version of one tag says nothing about another."""
    trust.raise_floor(sample_head(version=9, tag="stable"))
    assert accept(GOOD, REFERENCE, trust, NOW_S).version == 3


def test_expired(trust):
    """A head whose validity has ended is refused, to the second."""
    envelope = signed(payload_of(expires=NOW_S))
    assert accept(envelope, REFERENCE, trust, NOW_S - 1).expires == NOW_S
    with pytest.raises(ExpiredError):
        accept(envelope, REFERENCE, trust, NOW_S)
    with pytest.raises(ExpiredError):
        accept(envelope, REFERENCE.at(digest_of("root")), trust, NOW_S + 10**9)


# How it is written ----------------------------------------------------------------------------------------------------

VALUE = json.loads(GOOD)
ENTRY = VALUE["signatures"][0]
PADDED = json.loads(signed(payload_of(version=33)))
assert PADDED["payload"].endswith("==")

ENVELOPES = {
    "empty": b"",
    "longer than 1 KiB": GOOD + b" " * (HEAD_BYTES_MAX + 1 - len(GOOD)),
    "longer than 1 KiB, and signed so": signed(payload_of(later="x" * 600)),
    "5 MB": b"[" * 5_000_000,
    "trailing bytes": GOOD + b"x",
    "trailing newline": GOOD + b"\n",
    "two documents": GOOD + GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "spaces": json.dumps(VALUE, sort_keys=True).encode(),
    "another order of keys": json.dumps(dict(reversed(VALUE.items())), separators=(",", ":")).encode(),
    "another spelling of a letter": GOOD.replace(b"payloadType", b"payl\\u006fadType"),
    "a key twice": GOOD.replace(b'{"payload":', b'{"payload":"","payload":', 1),
    "depth of 1,000": b"[" * 500 + b"]" * 500,
    "depth within a field": text({**VALUE, "signatures": json.loads("[" * 20 + "]" * 20)}),
    "not a number": GOOD.replace(b'"payload":', b'"a":NaN,"payload":', 1),
    "infinity": GOOD.replace(b'"payload":', b'"a":-Infinity,"payload":', 1),
    "no object": b"[]",
    "a field too many": text({**VALUE, "more": 1}),
    "a field too few": text({k: v for k, v in VALUE.items() if k != "payload"}),
    "no signature": text({**VALUE, "signatures": []}),
    "two signatures": text({**VALUE, "signatures": [ENTRY, ENTRY]}),
    "signatures in an object": text({**VALUE, "signatures": {"0": ENTRY}}),
    "signature without a key id": text({**VALUE, "signatures": [{"sig": ENTRY["sig"]}]}),
    "signature with a field too many": text({**VALUE, "signatures": [{**ENTRY, "cert": ""}]}),
    "key id in capitals": text({**VALUE, "signatures": [{**ENTRY, "keyid": ENTRY["keyid"].upper()}]}),
    "key id that is a number": text({**VALUE, "signatures": [{**ENTRY, "keyid": 1}]}),
    "signature of 63 bytes": text({**VALUE, "signatures": [{**ENTRY, "sig": base64.b64encode(bytes(63)).decode()}]}),
    "signature with its message": text({**VALUE, "signatures": [{**ENTRY, "sig": ENTRY["sig"][:-2] + "AA"}]}),
    "signature in base64 for URLs": text({**VALUE, "signatures": [{**ENTRY, "sig": "-" * 88}]}),
    "signature with loose bits": text({**VALUE, "signatures": [{**ENTRY, "sig": "A" * 85 + "B=="}]}),
    "payload without padding": text({**PADDED, "payload": PADDED["payload"].rstrip("=")}),
    "payload with spaces": text({**VALUE, "payload": VALUE["payload"] + "\n"}),
    "payload that is null": text({**VALUE, "payload": None}),
    "payload not ASCII": text({**VALUE, "payload": "é"}),
}


@pytest.mark.parametrize("attack", ENVELOPES)
def test_envelope(attack):
    """An envelope that is not in its one text is refused before its signature is looked at."""
    with pytest.raises(MalformedError):
        open_head(ENVELOPES[attack], KEY)


TYPES = {
    "another statement": ("application/vnd.p2psync.roster.v1+json", MalformedError),
    "an in-toto statement": ("application/vnd.in-toto+json", MalformedError),
    "no type": ("", MalformedError),
    "a type with a space": ("application/vnd.p2psync.head.v1+json ", MalformedError),
    "a type in capitals": ("Application/vnd.p2psync.head.v1+json", MalformedError),
    "a later major version": ("application/vnd.p2psync.head.v2+json", UnsupportedVersionError),
}


@pytest.mark.parametrize("attack", TYPES)
def test_payload_type(attack):
    """A statement of another type is no head, though the publisher signed it and its payload would pass."""
    kind, error = TYPES[attack]
    with pytest.raises(error):
        open_head(signed(payload_of(), kind=kind), KEY)


def test_payload_type_that_was_swapped():
    """Another statement under the type of a head is a bad signature."""
    envelope = signed(payload_of(), kind="application/vnd.p2psync.roster.v1+json")
    with pytest.raises(BadSignatureError):
        open_head(text({**json.loads(envelope), "payloadType": VALUE["payloadType"]}), KEY)


PAYLOAD = text(payload_of())

PAYLOADS = {
    "empty": b"",
    "no object": b"[]",
    "a key twice": PAYLOAD.replace(b'"version":3', b'"version":3,"version":3'),
    "a key twice, once hidden": PAYLOAD.replace(b'"version":3', b'"version":3,"v\\u0065rsion":9'),
    "not a number": PAYLOAD.replace(b'"version":3', b'"version":NaN'),
    "infinity": PAYLOAD.replace(b'"version":3', b'"version":Infinity'),
    "float": PAYLOAD.replace(b'"version":3', b'"version":3.0'),
    "exponent": PAYLOAD.replace(b'"version":3', b'"version":3e0'),
    "truth value for a number": text(payload_of(version=True)),
    "text for a number": text(payload_of(version="3")),
    "null for a number": text(payload_of(version=None)),
    "negative version": text(payload_of(version=-1)),
    "minus zero": PAYLOAD.replace(b'"version":3', b'"version":-0'),
    "version of 2**53": text(payload_of(version=1 << 53)),
    "version of 2**63": text(payload_of(version=1 << 63)),
    "size of 2**63": text(payload_of(size=1 << 63)),
    "number of 200 digits": text(payload_of(size=10**200)),
    "truth value for an expiry": text(payload_of(expires=True)),
    "null for an expiry": text(payload_of(expires=None)),
    "root of another hash": text(payload_of(root="sha256:" + "0" * 64)),
    "root in capitals": text(payload_of(root=str(digest_of("root")).upper())),
    "root that is a number": text(payload_of(root=3)),
    "no root": text(payload_of(root=...)),
    "no name": text(payload_of(name=...)),
    "name that leads out": text(payload_of(name="acme/../../etc")),
    "name with NUL": text(payload_of(name="acme/wan\0")),
    "name with half a surrogate pair": text(payload_of(name="acme/\ud800")),
    "tag that leads out": text(payload_of(tag="../x")),
    "no tag": text(payload_of(tag=...)),
    "no minimum": text(payload_of(minimum=...)),
    "minimum that is no version": text(payload_of(minimum="new")),
    "no bases, but stated": text(payload_of(bases=[])),
    "four bases": text(payload_of(bases=[str(digest_of(str(i))) for i in range(4)])),
    "one base twice": text(payload_of(bases=[str(digest_of("x"))] * 2)),
    "bases that are text": text(payload_of(bases=str(digest_of("x")))),
    "byte order mark": b"\xef\xbb\xbf" + PAYLOAD,
    "trailing bytes": PAYLOAD + b"\0",
    "spaces": json.dumps(payload_of(), sort_keys=True).encode(),
    "another order of keys": json.dumps(dict(reversed(payload_of().items())), separators=(",", ":")).encode(),
    "unknown field that is deep": text(payload_of(later=json.loads("[" * 9 + "]" * 9))),
    "unknown field with a float": text(payload_of(later=0.5)),
    "unknown field with half a pair": text(payload_of(later="\udc00")),
}


@pytest.mark.parametrize("attack", PAYLOADS)
def test_payload(attack):
    """A payload that is not in its one text, or not what it must be, is refused though its signature holds."""
    with pytest.raises(MalformedError):
        open_head(signed(PAYLOADS[attack]), KEY)
    with pytest.raises(MalformedError):
        peek_head(signed(PAYLOADS[attack]))


def test_head_for_a_newer_program(trust):
    """A head that needs a newer p2psync is refused as such."""
    with pytest.raises(UnsupportedVersionError, match=r"needs p2psync 1\.0\.0"):
        accept(signed(payload_of(minimum="1.0.0")), REFERENCE, trust, NOW_S)


def test_signing_again_gives_the_same_bytes():
    """Ed25519 draws no random number: one head, one key, one envelope."""
    assert sign_head(sample_head(), PUBLISHER) == GOOD
