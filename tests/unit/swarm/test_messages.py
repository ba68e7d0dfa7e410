import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import MalformedError
from p2psync.limits import CHUNKS_PER_VERSION_MAX, CLAIMS_IN_MESSAGE_MAX, INDEXES_IN_MESSAGE_MAX
from p2psync.swarm import Inventory, decode, encode
from p2psync.swarm.inventory import encode_runs
from p2psync.swarm.messages import Beat, Claim, Have, Hello, Job, Leave, Lost, Release, topic_of
from p2psync.swarm.varint import varint

ROOT = Digest(bytes(range(32)))
TOPIC = topic_of(ROOT)
COUNT = 100
numbers = st.integers(0, (1 << 63) - 1)
indexes = st.sets(st.integers(0, COUNT - 1)).map(lambda s: tuple(sorted(s)))
jobs = st.lists(st.builds(Job, st.integers(0, COUNT - 1), numbers, numbers, st.booleans()), max_size=9).map(tuple)
messages = st.one_of(
    st.builds(Claim, st.just(TOPIC), st.booleans(), st.booleans(), indexes),
    st.builds(Beat, st.just(TOPIC), st.booleans(), numbers, numbers, jobs),
    st.builds(Have, st.just(TOPIC), indexes),
    st.builds(Release, st.just(TOPIC), indexes),
    st.builds(Lost, st.just(TOPIC), indexes),
    st.builds(Leave, st.just(TOPIC)),
)
hellos = st.builds(
    Hello, st.just(ROOT), st.booleans(), st.booleans(), st.booleans(), st.binary(min_size=8, max_size=8),
    indexes.map(lambda held: Inventory(COUNT, held)), jobs,
)  # fmt: skip
EXAMPLES = {
    Hello(ROOT, True, True, False, b"selected", Inventory(100, (0, 1, 2)), (Job(7, 4096, 250),)): (
        "0103 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f "
        "73656c6563746564 64 05 0f8020fa01 00 0003"
    ),
    Claim(TOPIC, True, False, (5, 6, 90)): "02010001020304050607 0502 5301",
    Claim(TOPIC, False, True, (0,)): "02020001020304050607 0001",
    Beat(TOPIC, True, 160000, 0, (Job(3, 300, 1000, False),)): "03010001020304050607 80e209 00 06ac02e807",
    Have(TOPIC, (1, 2, 3)): "040001020304050607 0103",
    Release(TOPIC, (99,)): "050001020304050607 6301",
    Lost(TOPIC, (0, 2)): "060001020304050607 0001 0101",
    Leave(TOPIC): "070001020304050607",
}  # fmt: skip


def count_of(topic):
    return COUNT if topic == TOPIC else None


def same(one, other):
    if isinstance(one, Hello):
        assert list(one.have) == list(other.have)
        fields = ("root", "wants", "outside", "answer", "selection", "jobs")
        return [getattr(one, f) for f in fields] == [getattr(other, f) for f in fields]
    return one == other


@given(st.one_of(messages, hellos))
def test_every_message_comes_back(message):
    """What is written is read back, each message alone."""
    assert same(decode(encode(message), count_of), message)


@pytest.mark.parametrize(("message", "wire"), EXAMPLES.items(), ids=lambda x: type(x).__name__)
def test_frozen_bytes(message, wire):
    """The bytes on the wire are those of protocol 1."""
    assert encode(message) == bytes.fromhex(wire)
    assert same(decode(bytes.fromhex(wire), count_of), message)


@given(st.binary(max_size=80), st.integers(0, 7))
def test_arbitrary_bytes_are_a_message_or_malformed(data, tag):
    """Nothing but the named error comes out of hostile bytes, and no number of a chunk that is none."""
    try:
        message = decode(bytes([tag]) + data[:1] + TOPIC + data, count_of)
    except MalformedError:
        return
    for index in getattr(message, "indexes", ()):
        assert 0 <= index < COUNT
    for job in getattr(message, "jobs", ()):
        assert 0 <= job.index < COUNT


@given(st.one_of(messages, hellos), st.data())
def test_a_cut_message_is_never_taken_for_the_whole(message, data):
    """A message that ends too early is refused, or says visibly less."""
    wire = encode(message)
    cut = wire[: data.draw(st.integers(0, len(wire) - 1))]
    with contextlib.suppress(MalformedError):
        assert encode(decode(cut, count_of)) == cut


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "00",
        "08" + TOPIC.hex(),
        "0204" + TOPIC.hex(),  # unknown flags of a claim
        "0302" + TOPIC.hex() + "0000",  # of a beat
        "0108" + ROOT.hex() + bytes(8).hex() + "64" + "00" + "00",  # of a hello
        "0100" + ROOT.hex() + bytes(8).hex() + "63" + "00" + "00",  # another number of chunks than is known
        "0100" + ROOT.hex() + bytes(8).hex() + "64" + "05" + "00",  # jobs that are not there
        "07" + TOPIC.hex() + "00",  # something after the end
        "04" + TOPIC.hex() + "6401",  # a chunk that is none
        "0301" + TOPIC.hex() + "0000" + "c8010000",  # a job on one
        "04" + TOPIC.hex()[:-2],
    ],
)
def test_what_is_no_message_is_refused(wire):
    """Tags, flags and numbers that are not defined are refused by name."""
    with pytest.raises(MalformedError):
        decode(bytes.fromhex(wire), count_of)


def test_a_hello_whose_jobs_run_past_its_end_is_refused_as_such():
    """Jobs that are all there, in a part that is said to be longer, and an inventory that would be nothing."""
    head = b"\x01\x00" + ROOT + bytes(8) + varint(COUNT)
    job = bytes.fromhex("06ac0205")
    assert decode(head + varint(len(job)) + job + b"\0", count_of).jobs == (Job(3, 300, 5, False),)
    for size in (len(job) + 1, 1 << 62):
        with pytest.raises(MalformedError, match="ends within its jobs"):
            decode(head + varint(size) + job, count_of)


def test_a_version_that_is_not_known_is_passed_over_and_a_hello_of_it_is_read():
    """Only a greeting says enough about a version that this node has not heard of."""
    stranger = Digest(bytes(32))
    assert decode(encode(Have(topic_of(stranger), (1,))), count_of) is None
    hello = Hello(stranger, False, False, False, bytes(8), Inventory(7, (1,)))
    assert same(decode(encode(hello), count_of), hello)


def test_bounds_are_strict():
    """A message speaks of no more chunks than its bound, however few bytes that takes."""
    count = CHUNKS_PER_VERSION_MAX

    def read(head, most):
        assert len(decode(head + TOPIC + encode_runs(range(most)), lambda _: count).indexes) == most
        with pytest.raises(MalformedError):
            decode(head + TOPIC + varint(0) + varint(most + 1), lambda _: count)

    read(b"\x02\x01", CLAIMS_IN_MESSAGE_MAX)
    for tag in (b"\x04", b"\x05", b"\x06"):
        read(tag, INDEXES_IN_MESSAGE_MAX)
    beat = Beat(TOPIC, True, 0, 0, (Job(0, 0, 0),) * CLAIMS_IN_MESSAGE_MAX)
    assert same(decode(encode(beat), lambda _: count), beat)
    with pytest.raises(MalformedError):
        decode(encode(Beat(TOPIC, True, 0, 0, (*beat.jobs, Job(0, 0, 0)))), lambda _: count)
    huge = b"\x01\x00" + ROOT + bytes(8) + varint(count + 1) + varint(0) + b"\x00"
    with pytest.raises(MalformedError):
        decode(huge, lambda _: None)
