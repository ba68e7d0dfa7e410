"""Sources that lie, one by one, beside an honest seed: the pull succeeds, leaves nothing behind and stays small.

The numbers are those of tests/liars, C 30 to C 46; askers and neighbours stand in test_lying_askers.py and
test_lying_neighbours.py. A liar is near and the seed is outside, so the liar is asked first for everything. Every pull
here runs with the bounds that users have. How a pull ends that has nobody but a liar: test_pull_from_liars.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2psync.limits import CHUNK_BYTES, KIB, LAN_LANES, MIB
from p2psync.node import operations
from tests import liars
from tests.liars import Liar, Request
from tests.liars.puller import NAME, Outcome, Puller
from tests.liars.stage import Stage
from tests.neighbourhood import until
from tests.stores import contents

# The stage is set once.
pytestmark = pytest.mark.xdist_group("liars")
# What heads, nodes, requests and the site's channel take of a link, and what was under way when somebody hung up.
OVERHEAD_BYTES = 2 * MIB
# Small chunks travel together, and those before the first lie are good.
SMALL_BYTES = 64 * KIB


@dataclass
class Run:
    """A pull beside a liar that has ended."""

    liar: Liar
    url: str
    outcome: Outcome

    @property
    def asked(self) -> Counter[str]:
        """How often each chunk was asked of the liar."""
        return Counter(request.path for request in self.liar.requests if "/v1/chunks/" in request.path)

    @property
    def told(self) -> str:
        """All that the pull said of the liar."""
        return " | ".join(f"{event['state']}: {event['reason']}" for event in self.outcome.of(self.url))


Pull = Callable[..., Awaitable[Outcome]]
Beside = Callable[[Liar], Awaitable[Run]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage.set(tmp_path_factory.mktemp("stage"))

    yield stage
    stage.store.close()


@pytest.fixture(scope="module")
def puller(stage: Stage) -> Iterator[Puller]:
    """A process that has pulled once: what is loaded then is no liar's doing."""

    async def warm(puller: Puller) -> None:
        async with stage.seed() as seed, Liar(stage.answers).running() as near:
            stage.assert_pulled(await puller.pull(stage.node("warm"), (near, "lan"), (seed, "wan")))

    with Puller() as puller:
        asyncio.run(warm(puller))
        yield puller


@pytest.fixture
def pull(stage: Stage, puller: Puller, tmp_path: Path, record_property: Callable[[str, object], None]) -> Pull:
    """Pulls into a fresh home; what was left behind or took too much memory fails."""

    async def pull(*sources: tuple[str, str]) -> Outcome:
        outcome = await puller.pull(stage.node(tmp_path.name), *sources)
        record_property("seconds", round(outcome.seconds, 2))
        record_property("peak_mib", round(outcome.peak_bytes / MIB, 1))
        stage.assert_pulled(outcome)
        return outcome

    return pull


@pytest.fixture
def beside(stage: Stage, pull: Pull) -> Beside:
    """Pulls with a liar near and the honest seed outside."""

    async def beside(liar: Liar) -> Run:
        async with stage.seed() as seed, liar.running() as url:
            return Run(liar, url, await pull((url, "lan"), (seed, "wan")))

    return beside


async def test_c30_wrong_bytes_of_the_right_length(stage: Stage, beside: Beside) -> None:
    """They are thrown away, the source is named and after its second wrong chunk not asked again."""
    run = await beside(liars.FlippedBit(stage.answers))
    assert "other bytes than chunk" in run.told
    assert run.outcome.sent_by(run.url) < SMALL_BYTES
    assert run.asked.total() <= 2 * LAN_LANES


async def test_c31_short_bodies(stage: Stage, beside: Beside) -> None:
    """What ended early is asked elsewhere; a source that does so again and again rests longer each time."""
    run = await beside(liars.ShortBody(stage.answers))
    assert "early" in run.told
    assert run.outcome.sent_by(run.url) < MIB
    assert run.asked.total() <= 8 * LAN_LANES


@pytest.mark.parametrize(
    "kind", [liars.EndlessBody, liars.EndlessTail, liars.LengthTooLong, liars.LengthGiant, liars.GiantHead]
)
async def test_c32_bodies_without_end(stage: Stage, beside: Beside, kind: type[Liar]) -> None:
    """Reading stops where the answer should have ended: no more crosses the link than was asked for and a rest."""
    run = await beside(kind(stage.answers))
    given = run.outcome.sent_by(run.url)
    assert run.outcome.answer["wire"]["lan"] <= given + run.asked.total() * 64 * KIB + OVERHEAD_BYTES


async def test_c33_a_right_chunk_for_another_request(stage: Stage, beside: Beside) -> None:
    """It is no less wrong for being a chunk of the version."""
    liar = liars.AnotherChunk(stage.answers)
    liar.other = stage.other_chunk()
    run = await beside(liar)
    assert "other bytes than chunk" in run.told
    assert run.outcome.sent_by(run.url) < 2 * MIB
    assert run.asked.total() <= 3 * LAN_LANES


async def test_c34_a_source_that_does_not_have_what_it_says(stage: Stage, beside: Beside) -> None:
    """What it answers with 404 is struck from what it holds: it is asked once for each chunk, at most."""
    run = await beside(liars.NotFound(stage.answers))
    assert "no longer has" in run.told
    assert max(run.asked.values()) == 1


async def test_c35_one_byte_a_second(stage: Stage, beside: Beside) -> None:
    """It is passed over for a source that delivers, and is called slow, not bad."""

    class Trickle(liars.Dribble):
        pause_s = 1.0

    run = await beside(Trickle(stage.answers))
    assert "slow: silent" in run.told
    assert "banned" not in run.told
    assert run.outcome.sent_by(run.url) < SMALL_BYTES


@pytest.mark.parametrize("kind", [liars.Mute, liars.SilentAfterHead, liars.SilentInBody])
async def test_c36_silence(stage: Stage, beside: Beside, kind: type[Liar]) -> None:
    """A source that takes a request and says nothing holds up no more than what it was asked for."""
    run = await beside(kind(stage.answers))
    assert "slow: silent" in run.told
    assert run.asked.total() <= LAN_LANES + 1


async def test_c36_silence_from_the_first_byte(stage: Stage, beside: Beside) -> None:
    """One that takes the connection and never answers anything is left out."""
    run = await beside(liars.Silent(stage.answers))
    assert "silent" in run.told


async def test_c37_a_reset_near_the_end_costs_one_chunk(stage: Stage, pull: Pull) -> None:
    """With no other source the pull goes on with the same one, and asks again for that chunk alone."""
    left = [1]

    def first(request: Request) -> bool:
        return "/v1/chunks/" in request.path and bool(left) and bool(left.pop())

    async with liars.ResetNearEnd(stage.answers, first).running() as url:
        outcome = await pull((url, "wan"))
    assert not left
    assert "early" in " ".join(event["reason"] for event in outcome.of(url))
    assert outcome.answer["wire"]["wan"] <= stage.size + 2 * LAN_LANES * CHUNK_BYTES // 4 + OVERHEAD_BYTES


async def test_c38_bombs(stage: Stage, beside: Beside) -> None:
    """Nothing is unpacked that was not proved, whatever coding an answer says it has."""
    run = await beside(liars.Bomb(stage.answers))
    assert run.outcome.sent_by(run.url) == 0
    assert run.told


async def test_c43_an_inventory_of_a_thousand_million_chunks(stage: Stage, beside: Beside) -> None:
    """It is refused by the length that it says, before a byte of it is kept."""
    run = await beside(liars.GiantInventory(stage.answers, lambda request: "/v1/have/" in request.path))
    assert "125000000 bytes" in run.told
    assert run.outcome.sent_by(run.url) == 0
    assert run.outcome.answer["wire"]["lan"] <= OVERHEAD_BYTES


async def test_c45_a_redirect_is_not_followed(stage: Stage, beside: Beside) -> None:
    """Where a source sends its asker, nobody goes, and what is told names the place."""
    elsewhere = Liar(stage.answers)
    async with elsewhere.running() as target:
        liar = liars.Redirect(stage.answers)
        liar.target = target
        run = await beside(liar)
    assert elsewhere.connections == 0
    assert "redirects v1/chunks" in run.told
    assert target in run.told


async def test_c46_with_every_neighbour_bad_the_seed_is_asked(stage: Stage, pull: Pull) -> None:
    """Five neighbours, each bad in its own way: everything comes from the seed, and nothing is left behind."""
    kinds = [liars.FlippedBit, liars.NotFound, liars.ShortBody, liars.Garbage, liars.Mute]
    async with AsyncExitStack() as running:
        seed = await running.enter_async_context(stage.seed())
        near = [await running.enter_async_context(kind(stage.answers).running()) for kind in kinds]
        outcome = await pull(*((url, "lan") for url in near), (seed, "wan"))
    assert outcome.sent_by(seed) > stage.size - MIB
    assert {event["url"] for event in outcome.events if event["event"] == "source"} == set(near)


async def test_c46_with_everybody_gone_a_follower_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is here stays as it is, sources are asked now and then, and the next version comes once one is back."""
    monkeypatch.setattr(operations, "WATCH_S", 0.2)
    stage = Stage.set(tmp_path / "stage", tensors=2)
    home, events = stage.node("follower"), list[dict[str, object]]()

    def seen(name: str) -> list[dict[str, object]]:
        return [event for event in events if event["event"] == name]

    async with liars.HangsUp(stage.answers, lambda _request: True).running() as bad:
        async with stage.seed() as seed:
            sources = [{"url": bad, "kind": "lan"}, {"url": seed, "kind": "wan"}]
            args = {"reference": NAME, "sources": sources, "watch": True}
            following = asyncio.ensure_future(operations.run(home, "pull", args, events.append))
            await until(lambda: bool(seen("result")))
            path = Path(seen("result")[0]["result"]["path"])
            first = contents(path)
        stage.publish(2)
        await until(lambda: len(seen("waiting")) >= 3)
        assert contents(path) == first
        async with stage.seed(int(seed.rpartition(":")[2])):
            await until(lambda: len(seen("result")) == 2)
            assert contents(Path(seen("result")[1]["result"]["path"])) == contents(stage.folder)
            assert contents(path) == first
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    stage.store.close()
