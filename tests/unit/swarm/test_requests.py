from p2psync.swarm.company import Company
from p2psync.swarm.messages import topic_of
from p2psync.swarm.ranking import Keys
from p2psync.swarm.sources import Source
from p2psync.swarm.state import State
from p2psync.swarm.voice import Voice
from tests.unit.swarm.pieces import ROOT, chunks


def state(*sources):
    table = chunks(8)
    company = Company("me", ROOT, Keys(table), bytes(8))
    made = State(table, {c.index: c for c in table}, company, Voice(topic_of(ROOT), company), 16)
    for name in sources:
        made.sources[name] = Source(outside=name == "seed", holds=None)
    return made


def test_each_request_is_told_to_stop_once_and_only_while_it_runs():
    """A request that is over is not stopped any more."""
    facts = state("a", "b")
    first = facts.ask("a", facts.table[:2], None, 0)
    second = facts.ask("b", facts.table[1:2], None, 0)
    facts.requests.arrived(second, 1)
    facts.requests.stop([first])
    assert facts.requests.take_stops() == [first]
    assert facts.requests.take_stops() == []
    facts.requests.stop([first])
    assert facts.requests.close(first)
    assert not facts.requests.close(first)
    assert facts.requests.take_stops() == []


def test_bytes_are_counted_while_they_come_and_after():
    """What a source brought is the sum over its requests, running and over."""
    facts = state("a", "seed")
    ask = facts.ask("a", facts.table[:1], None, 0)
    outside = facts.ask("seed", facts.table[1:2], None, 0)
    ask.meter.received = 10
    assert (facts.requests.brought("a"), facts.requests.outside) == (10, 1)
    facts.requests.close(ask)
    facts.requests.close(outside)
    assert (facts.requests.brought("a"), facts.requests.outside) == (10, 0)
    facts.requests.forget("a")
    assert facts.requests.brought("a") == 0


def test_late_is_silence_of_the_oldest():
    """Late is what has brought nothing for too long; the longest silence first, what is asked twice never."""
    facts = state("a", "b", "c")
    old, new = facts.ask("a", facts.table[:2], None, 0), facts.ask("b", facts.table[2:3], None, 1)

    def late(source, now_s):
        return facts.requests.late(source, 5, now_s, lambda index: index != 0)

    assert late("c", 5) is None
    assert late("c", 5.5) == 1
    assert late("a", 5.5) is None
    assert late("a", 7) == 2
    facts.ask("c", facts.table[1:2], None, 6)
    assert late("c", 7) == 2
    old.news_s = new.news_s = 6
    assert late("c", 7) is None


def test_the_lan_goes_on_when_the_outside_is_dropped():
    """Giving up a chunk outside stops only what comes from there."""
    facts = state("a", "seed")
    near = facts.ask("a", facts.table[:1], None, 0)
    far = facts.ask("seed", facts.table[:1], None, 0)
    facts.requests.drop_outside(0)
    assert facts.requests.take_stops() == [far]
    assert list(facts.requests.askers(0)) == [near]


def test_what_is_nearly_here_is_not_late():
    """A request whose bytes come, if slowly, is late only when what is left of its chunk takes long as well."""
    facts = state("a", "b")
    ask = facts.ask("a", facts.table[:2], None, 0)
    assert ask.rest_s(10) == float("inf")
    ask.meter.received = facts.table[0].length // 4
    assert ask.rest_s(2) == 6
    assert facts.requests.late("b", 1, 2, lambda _index: True) == 0
    ask.meter.received = 3 * facts.table[0].length // 4
    assert ask.rest_s(3) == 1
    assert facts.requests.late("b", 1, 3, lambda _index: True) is None
    del ask.left[0]
    ask.news_s = 2
    assert ask.rest_s(3) == float("inf")
