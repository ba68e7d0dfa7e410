"""Gossip reads back, and what is no gossip is refused."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import MalformedError
from p2psync.limits import CHANNEL_MESSAGE_BYTES_MAX, GOSSIP_ENTRIES_MAX
from p2psync.swarm.gossip import Whereabouts, decode_gossip, encode_gossip, tellable

ENTRIES = st.builds(
    Whereabouts,
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.ip_addresses().map(str),
    st.integers(0, 65535),
)


@given(st.lists(ENTRIES, max_size=20))
def test_gossip_reads_back(entries: list[Whereabouts]) -> None:
    """What one node writes another reads."""
    assert decode_gossip(encode_gossip(entries)) == entries


def test_gossip_has_the_bytes_of_the_protocol() -> None:
    """The bytes are those of docs/protocol.md."""
    entries = [Whereabouts("0011223344556677", "192.0.2.7", 7000), Whereabouts("8899aabbccddeeff", "fd00::7", 1)]
    assert encode_gossip(entries) == bytes.fromhex(
        "00 0011223344556677 04 c0000207 581b 8899aabbccddeeff 06 fd000000000000000000000000000007 0100"
    )


def test_one_message_is_bounded() -> None:
    """A writer leaves out what does not fit; a reader refuses what no writer writes."""
    one = Whereabouts("00" * 8, "fd00::7", 1)
    full = encode_gossip([one] * 1000)
    assert len(decode_gossip(full)) == GOSSIP_ENTRIES_MAX
    assert len(full) < CHANNEL_MESSAGE_BYTES_MAX
    with pytest.raises(MalformedError, match="more than"):
        decode_gossip(full + full[1:28])


@given(st.binary(max_size=100))
def test_noise_is_gossip_or_malformed(noise: bytes) -> None:
    """Nothing but MalformedError comes of noise, and what is read writes the same bytes."""
    try:
        entries = decode_gossip(b"\0" + noise)
    except MalformedError:
        return
    assert encode_gossip(entries) == b"\0" + noise


def test_another_tag_is_no_gossip() -> None:
    """The first byte says what a message is."""
    for message in (b"", b"\1"):
        with pytest.raises(MalformedError):
            decode_gossip(message)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("192.0.2.7", True),
        ("fd00::7", True),
        ("fe80::7", False),
        ("fe80::7%2", False),
        ("169.254.1.1", False),
        ("", False),
    ],
)
def test_link_local_addresses_are_not_told(address: str, told: bool) -> None:
    """An address that means something on one wire only stays on it."""
    assert tellable(address) is told
    if told:
        assert ipaddress.ip_address(address)
