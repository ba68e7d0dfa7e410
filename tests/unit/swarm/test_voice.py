from p2psync.limits import BEAT_S, CLAIMS_IN_MESSAGE_MAX, HAVE_DELAY_S, INDEXES_IN_MESSAGE_MAX
from p2psync.swarm.company import Company
from p2psync.swarm.messages import Beat, Have, Job, Leave, Lost, topic_of
from p2psync.swarm.ranking import Keys
from p2psync.swarm.voice import Voice
from tests.unit.swarm.pieces import ROOT, chunks


def voice(*, alone=False, serves=True):
    company = Company("me", ROOT, Keys(chunks(4)), bytes(8), serves=serves)
    if not alone:
        company.meet("peer", 0)
    return Voice(topic_of(ROOT), company)


def said(speaker):
    return [message for _, message in speaker.take()]


def test_news_are_told_at_once_and_then_together():
    """The first chunk is told when it arrives, the next ones with it within the delay."""
    speaker = voice()
    speaker.arrived([1], 10)
    speaker.arrived([2], 10.01)
    speaker.arrived([3], 10.02)
    assert [m.indexes for m in said(speaker)] == [(1,)]
    assert speaker.due_s == 10 + HAVE_DELAY_S
    speaker.tell(10 + HAVE_DELAY_S)
    assert [m.indexes for m in said(speaker)] == [(2, 3)]
    assert speaker.due_s is None


def test_what_is_lost_before_it_was_told_is_not_told():
    """Nobody hears of a chunk after it is gone."""
    speaker = voice()
    speaker.arrived([1], 10)
    speaker.arrived([2, 3], 10.01)
    speaker.lost([2])
    speaker.tell(11)
    assert [(type(m), m.indexes) for m in said(speaker)] == [(Have, (1,)), (Lost, (2,)), (Have, (3,))]


def test_long_news_are_cut():
    """No message is longer than a reader takes."""
    speaker = voice()
    speaker.arrived(range(INDEXES_IN_MESSAGE_MAX + 1), 10)
    assert [len(m.indexes) for m in said(speaker)] == [INDEXES_IN_MESSAGE_MAX, 1]
    speaker.beat([Job(0, 0, 0)] * (CLAIMS_IN_MESSAGE_MAX + 1), 10)
    assert [len(m.jobs) for m in said(speaker)] == [CLAIMS_IN_MESSAGE_MAX]


def test_it_beats_until_it_leaves():
    """Twice a second while it takes part, and never after its goodbye, which it says once."""
    speaker = voice()
    assert speaker.beat_due(0)
    speaker.beat([], 0)
    assert not speaker.beat_due(BEAT_S / 2)
    assert speaker.beat_due(BEAT_S)
    speaker.arrived([1], 0)
    speaker.arrived([2], 0)
    speaker.leave()
    speaker.leave()
    assert not speaker.beat_due(9)
    assert [type(m) for m in said(speaker)] == [Beat, Have, Have, Leave]


def test_alone_it_keeps_quiet():
    """News that nobody hears are not kept for whoever comes: a greeting says it all."""
    speaker = voice(alone=True)
    speaker.arrived([1], 10)
    speaker.claim([2], outside=True)
    speaker.release([2])
    assert not speaker.beat_due(99)
    assert speaker.due_s is None
    assert said(speaker) == []


def test_a_reader_promises_nothing():
    """Who cannot be asked says neither what it has nor what it fetches."""
    speaker = voice(serves=False)
    speaker.arrived([1], 10)
    speaker.claim([2], outside=True)
    speaker.leave()
    assert [type(m) for m in said(speaker)] == [Leave]
