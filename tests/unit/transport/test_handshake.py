"""Hellos and what is signed: exact bytes, and every way in which they can be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import ChannelRefusedError, UsageError
from p2psync.limits import HELLO_BYTES_MAX
from p2psync.manifest import SigningKey
from p2psync.transport import Hello, Reason, Speaker, node_id_of
from p2psync.transport.handshake import check_proof, decode_hello, encode_hello, transcript

KEY = SigningKey(bytes(32))
HELLO = Hello(KEY.verify_key, bytes(range(32)), "berlin", 7000, "p2psync/0.1.0")
BYTES = (
    b"P2PS\x01\x00"
    + bytes(KEY.verify_key)
    + bytes(range(32))
    + (7000).to_bytes(2, "little")
    + b"\x06berlin\x0dp2psync/0.1.0"
)


def test_hello_has_the_bytes_of_the_protocol() -> None:
    """A hello is the bytes that docs/protocol.md lists, and reads back."""
    assert encode_hello(HELLO) == BYTES
    assert decode_hello(BYTES) == HELLO


def test_id_is_the_digest_of_the_key() -> None:
    """A node cannot choose its id: it follows from the key that it proves."""
    assert HELLO.node == node_id_of(KEY.verify_key) == Digest.of(bytes(KEY.verify_key)).hex()


def test_later_versions_may_say_more() -> None:
    """What follows the known part is not read, but is signed with the rest."""
    assert decode_hello(BYTES + b"more") == HELLO


@pytest.mark.parametrize("length", range(len(BYTES)))
def test_cut_hellos_are_refused(length: int) -> None:
    """No part of a hello is a hello."""
    with pytest.raises(ChannelRefusedError) as caught:
        decode_hello(BYTES[:length])
    assert caught.value.reason == Reason.MALFORMED


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    """Bytes that nobody meant as a hello are refused by name and break nothing."""
    with pytest.raises(ChannelRefusedError):
        decode_hello(b"P2PX" + data)


def test_long_names_and_odd_names_are_refused() -> None:
    """A site's id longer than one may be, text that is no UTF-8 and software that is no printable ASCII are refused."""
    fixed = BYTES[:72]
    for names in (b"\x81" + b"a" * 129 + b"\0", b"\x01\xff\0", b"\0\x01\n", b"\0\x41" + b"a" * 65):
        with pytest.raises(ChannelRefusedError) as caught:
            decode_hello(fixed + names)
        assert caught.value.reason == Reason.MALFORMED
    with pytest.raises(ChannelRefusedError):
        decode_hello(BYTES + bytes(1024))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"P2PX" + BYTES[4:], "it is no hello"),
        (BYTES[:5], "it is no hello"),
        (BYTES + bytes(HELLO_BYTES_MAX), "it is no hello"),
        (BYTES[:71], "it ends early"),
        (BYTES[:72], "a name in it is too long or cut off"),
        (BYTES[:72] + b"\x07berlin", "a name in it is too long or cut off"),
        (BYTES[:72] + b"\x81" + b"a" * 129 + b"\0", "a name in it is too long or cut off"),
        (BYTES[:72] + b"\x01\xff\0", "a name in it is not UTF-8"),
        (BYTES[:72] + b"\0\x01\n", "the name of its software is not printable ASCII"),
        (BYTES[:72] + b"\0\x02\xc3\xa4", "the name of its software is not printable ASCII"),
    ],
)
def test_each_hello_is_refused_by_its_own_rule(data: bytes, why: str) -> None:
    """What is wrong is said, so that whoever wrote the other program finds it."""
    with pytest.raises(ChannelRefusedError, match=f"introduction is refused: {why}") as caught:
        decode_hello(data)
    assert caught.value.reason == Reason.MALFORMED


def test_another_protocol_is_named() -> None:
    """Whoever speaks another protocol is told so, whatever follows."""
    with pytest.raises(ChannelRefusedError) as caught:
        decode_hello(b"P2PS\x02\x00anything")
    assert caught.value.reason == Reason.PROTOCOL


def test_what_is_signed_has_the_bytes_of_the_protocol() -> None:
    """Domain, role, then both hellos behind their lengths."""
    signed = transcript(of_dialler=True, dialler=b"one", listener=b"other")
    assert signed == b"p2psync site channel 1\0D\x03\x00one\x05\x00other"


def test_a_proof_holds_for_one_role_and_one_pair_of_hellos() -> None:
    """A signature made for the other role, for other hellos or by another key proves nothing."""
    signed = transcript(of_dialler=True, dialler=BYTES, listener=b"other")
    check_proof(HELLO, signed, KEY.sign(signed))
    wrong = [
        KEY.sign(transcript(of_dialler=False, dialler=BYTES, listener=b"other")),
        KEY.sign(transcript(of_dialler=True, dialler=b"other", listener=BYTES)),
        SigningKey(b"x" * 32).sign(signed),
        KEY.sign(signed)[:-1],
        KEY.sign(signed) + signed,
        b"",
    ]
    for signature in wrong:
        with pytest.raises(ChannelRefusedError) as caught:
            check_proof(HELLO, signed, signature)
        assert caught.value.reason == Reason.SIGNATURE


def test_the_port_is_said_only_where_it_is_listened_on() -> None:
    """A node that listens on one address serves nowhere, as far as a connection from another address can tell."""
    assert Speaker(KEY, host="", port=7000).hello("192.0.2.1").port == 7000
    assert Speaker(KEY, host="127.0.0.1", port=7000).hello("127.0.0.1").port == 7000
    assert Speaker(KEY, host="127.0.0.1", port=7000).hello("192.0.2.1").port == 0
    assert Speaker(KEY, host=None, port=7000).hello("192.0.2.1").port == 0


def test_every_hello_has_its_own_nonce() -> None:
    """Two introductions of one node differ."""
    speaker = Speaker(KEY)
    assert speaker.hello("").nonce != speaker.hello("").nonce


def test_a_long_site_is_the_callers_fault() -> None:
    """A site's id that no hello can carry is refused before anything is sent."""
    with pytest.raises(UsageError, match="at most 128 bytes"):
        Speaker(KEY, site="ä" * 65)
