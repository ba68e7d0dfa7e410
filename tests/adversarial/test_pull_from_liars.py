"""Real pulls from every liar of the library, alone and beside a good source."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from p2psync.errors import P2PSyncError
from p2psync.node import operations
from tests import liars
from tests.integration.lab import HASTE, Home, Publisher
from tests.integration.models import MIB, WEIGHTS, assert_equal_files, held_digests, make_model, pieces_of, size_of
from tests.liars import Liar, Request, SeedAnswers, TreeAnswers

# Hang guard of one pull. The slowest here waits a few times for a silent source.
PULL_S = 100.0
AT_ONCE = 8

TRUST, INTEGRITY, NETWORK, PROTOCOL = 4, 5, 7, 8

# How a pull ends whose only source tells one lie about every chunk.
# All pulls are made once, for every test of this file.
pytestmark = pytest.mark.xdist_group("pulls from liars")

CHUNK_LIES: dict[type[Liar], tuple[int, ...]] = {
    liars.Silent: (NETWORK,),
    liars.FlippedBit: (INTEGRITY,),
    liars.AnotherChunk: (INTEGRITY,),
    liars.ShortBody: (NETWORK,),
    liars.EndlessBody: (PROTOCOL,),
    liars.Dribble: (NETWORK,),
    liars.DribbledHead: (NETWORK,),
    liars.SilentInBody: (NETWORK,),
    liars.SilentAfterHead: (NETWORK,),
    liars.ResetNearEnd: (NETWORK,),
    liars.NotFound: (NETWORK,),
    liars.Redirect: (PROTOCOL,),
    liars.LengthTooLong: (PROTOCOL,),
    liars.LengthTooShort: (PROTOCOL,),
    liars.LengthGiant: (PROTOCOL,),
    liars.TwoLengths: (PROTOCOL,),
    liars.Chunked: (PROTOCOL,),
    liars.ChunkedWithLength: (PROTOCOL,),
    liars.GiantHead: (PROTOCOL,),
    liars.GiantLine: (PROTOCOL,),
    liars.Garbage: (PROTOCOL,),
    liars.OldHttp: (PROTOCOL,),
    liars.Interim: (PROTOCOL, NETWORK),
    liars.NoContent: (PROTOCOL,),
    liars.OtherStatus: (PROTOCOL,),
    liars.ServerError: (NETWORK,),
    liars.HangsUp: (NETWORK,),
}
# Lies about what comes before the chunks: (liar, resource) and how a pull from it alone ends.
EARLY_LIES: dict[tuple[type[Liar], str], tuple[int, ...]] = {
    (liars.FlippedBit, "heads"): (TRUST, INTEGRITY),
    (liars.NotFound, "heads"): (3,),
    (liars.Redirect, "heads"): (PROTOCOL,),
    (liars.EndlessBody, "heads"): (PROTOCOL,),
    (liars.Garbage, "heads"): (PROTOCOL,),
    (liars.FlippedBit, "nodes"): (INTEGRITY,),
    (liars.NotFound, "nodes"): (PROTOCOL, NETWORK),
    (liars.EndlessBody, "nodes"): (PROTOCOL,),
    (liars.PutsOff, "nodes"): (PROTOCOL,),
    (liars.BrokenFrames, "nodes"): (PROTOCOL,),
    (liars.SilentAfterHead, "nodes"): (NETWORK,),
    (liars.NotFound, "have"): (NETWORK,),
    (liars.LengthTooShort, "have"): (PROTOCOL,),
    (liars.Garbage, "have"): (PROTOCOL,),
}
# Lies of a web server that holds an origin tree, about packs.
TREE_LIES: dict[type[Liar], tuple[int, ...]] = {
    liars.FlippedBit: (INTEGRITY,),
    liars.OtherRange: (PROTOCOL,),
    liars.OtherStatus: (PROTOCOL,),
    liars.NotFound: (NETWORK,),
    liars.ShortBody: (NETWORK,),
    liars.ResetNearEnd: (NETWORK,),
    liars.SilentInBody: (NETWORK,),
    liars.Redirect: (PROTOCOL,),
}


@dataclass
class Stage:
    """A published model, its honest seed and tree, and a home that trusts the publisher."""

    folder: Path
    seed: str
    tree: Path
    trusting: Path
    base: Path
    other_chunk: bytes
    other_head: bytes


@dataclass
class Outcome:
    """How one pull ended: its exit code, the object that it answered or was told, and what it said on the way."""

    code: int
    answer: dict[str, Any]
    home: Path
    stderr: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One pull from one liar, alone or beside the honest seed. ``kind`` says how near the liar is."""

    name: str
    make: Callable[[Stage], Liar]
    good: bool
    kind: str = "wan"


def about(resource: str) -> Callable[[Request], bool]:
    return lambda request: f"/{resource}" in request.path


def chunk_liar(kind: type[Liar]) -> Callable[[Stage], Liar]:
    def make(stage: Stage) -> Liar:
        return with_other_chunk(kind(SeedAnswers(stage.seed)), stage)

    return make


def early_liar(kind: type[Liar], resource: str) -> Callable[[Stage], Liar]:
    return lambda stage: kind(SeedAnswers(stage.seed), about(resource))


def tree_liar(kind: type[Liar]) -> Callable[[Stage], Liar]:
    return lambda stage: kind(TreeAnswers(stage.tree))


def with_other_chunk(liar: Liar, stage: Stage) -> Liar:
    if isinstance(liar, liars.AnotherChunk):
        liar.other = stage.other_chunk
    return liar


def other_head(stage: Stage) -> Liar:
    return liars.OtherHead(SeedAnswers(stage.seed), stage.other_head)


def chunk_cases() -> Iterator[Case]:
    for kind in [*CHUNK_LIES, liars.EndlessTail, liars.PoliteCloser]:
        # The good source stands outside: the liar, being near, is asked first for everything.
        yield Case(f"{kind.__name__} alone", chunk_liar(kind), good=False)
        yield Case(f"{kind.__name__} beside", chunk_liar(kind), good=True, kind="lan")


def other_cases() -> Iterator[Case]:
    for kind, resource in EARLY_LIES:
        yield Case(f"{kind.__name__} {resource} alone", early_liar(kind, resource), good=False)
        yield Case(f"{kind.__name__} {resource} beside", early_liar(kind, resource), good=True, kind="lan")
    for kind in TREE_LIES:
        yield Case(f"tree {kind.__name__} alone", tree_liar(kind), good=False)
        yield Case(f"tree {kind.__name__} beside", tree_liar(kind), good=True)
    yield Case("OtherHead alone", other_head, good=False)
    yield Case("OtherHead beside", other_head, good=True, kind="lan")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every pull of this file, a few at a time: most of them wait for a liar."""
    base = tmp_path_factory.mktemp("liars")
    publisher = Publisher.at(base / "publisher")
    folder = make_model(base / "model", layers=3)
    publisher.publish(folder, "acme/model", "--to", base / "tree")
    publisher.publish(make_model(base / "small", layers=1, layer_bytes=60_000), "acme/other")
    publisher.node(base / "trusting")
    data = (folder / WEIGHTS).read_bytes()
    chunk = [piece for piece in pieces_of(folder) if piece.length == MIB][-1]
    with publisher.home.serve() as seed:
        other = SeedAnswers(seed.address)(Request("GET", "/v1/heads/acme/other/tags/latest", {}, b"")).body
        body = data[chunk.offset : chunk.offset + chunk.length]
        stage = Stage(folder, seed.address, base / "tree", base / "trusting", base, body, other)
        # Those that wait longest start first.
        cases = sorted([*chunk_cases(), *other_cases()], key=lambda case: "Silent" not in case.name)
        return asyncio.run(run_all(cases, stage))


async def run_all(cases: list[Case], stage: Stage) -> dict[str, Outcome]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def take_turn(case: Case, url: str) -> Outcome:
        home = stage.base / "homes" / case.name
        shutil.copytree(stage.trusting, home)
        async with turn, asyncio.timeout(PULL_S):
            return await (beside if case.good else alone)(home, url, case, stage)

    async with AsyncExitStack() as running:
        urls = [await running.enter_async_context(case.make(stage).running()) for case in cases]
        found = await asyncio.gather(*(take_turn(case, url) for case, url in zip(cases, urls, strict=True)))
    return {case.name: outcome for case, outcome in zip(cases, found, strict=True)}


async def alone(home: Path, url: str, case: Case, stage: Stage) -> Outcome:
    """The real program, with smaller bounds: it ends once it has waited in vain."""
    done = await asyncio.to_thread(Home(home, HASTE).run, "pull", "acme/model", "--from", url, "--json", code=None)
    return Outcome(done.code, done.json, home, done.stderr)


async def beside(home: Path, url: str, case: Case, stage: Stage) -> Outcome:
    """The verb itself, with the bounds that users have, and all that it tells."""
    events: list[dict[str, Any]] = []
    sources = [{"url": url, "kind": case.kind}, {"url": f"http://{stage.seed}", "kind": "wan"}]
    try:
        answer = await operations.run(home, "pull", {"reference": "acme/model", "sources": sources}, events.append)
    except P2PSyncError as error:
        return Outcome(error.exit_code, {"error": {"message": str(error)}}, home, "", events)
    return Outcome(0, answer, home, "", events)


@pytest.fixture(scope="module")
def folder(outcomes: dict[str, Outcome]) -> Path:
    """What was published."""
    return next(iter(outcomes.values())).home.parent.parent / "model"


def assert_named(outcome: Outcome, codes: tuple[int, ...], folder: Path) -> None:
    """The pull ended in one of the named errors, with no wrong byte on disk and nothing installed."""
    assert outcome.code in codes, (outcome.code, outcome.answer, outcome.stderr)
    assert outcome.answer["error"]["message"]
    held_digests(outcome.home, folder)
    assert not list((outcome.home / "models").rglob(WEIGHTS))


def assert_pulled(outcome: Outcome, folder: Path) -> None:
    """The pull succeeded with the published files."""
    assert outcome.code == 0, (outcome.code, outcome.answer, outcome.events)
    assert_equal_files(outcome.answer["path"], folder)


@pytest.mark.parametrize("kind", CHUNK_LIES, ids=lambda kind: kind.__name__)
def test_lie_about_chunks_alone(kind: type[Liar], outcomes: dict[str, Outcome], folder: Path) -> None:
    """A pull whose only source lies about every chunk ends in the error that the lie deserves."""
    assert_named(outcomes[f"{kind.__name__} alone"], CHUNK_LIES[kind], folder)


@pytest.mark.parametrize("kind", [*CHUNK_LIES, liars.EndlessTail, liars.PoliteCloser], ids=lambda kind: kind.__name__)
def test_lie_about_chunks_beside_a_good_source(kind: type[Liar], outcomes: dict[str, Outcome], folder: Path) -> None:
    """Beside a good source the same lie costs nothing but time: the files are the published ones."""
    outcome = outcomes[f"{kind.__name__} beside"]
    assert_pulled(outcome, folder)
    # A batch of small chunks may give its first ones whole before the lie reaches a later one.
    batched = sum(piece.length for piece in pieces_of(folder) if piece.length < MIB)
    # The other chunk is the right one when it is the one that was asked for.
    honest = {
        liars.EndlessTail: size_of(folder),
        liars.PoliteCloser: size_of(folder),
        liars.AnotherChunk: batched + MIB,
    }
    assert outcome.answer["bytes"]["lan"] <= honest.get(kind, batched)


@pytest.mark.parametrize("kind", [liars.FlippedBit, liars.AnotherChunk], ids=lambda kind: kind.__name__)
def test_source_of_wrong_bytes_is_named(kind: type[Liar], outcomes: dict[str, Outcome]) -> None:
    """A source whose bytes do not prove is named in what the pull tells, and no other source is."""
    told = [event for event in outcomes[f"{kind.__name__} beside"].events if event["event"] == "source"]
    assert any("other bytes than chunk" in event["reason"] for event in told)
    assert len({event["url"] for event in told}) == 1


def test_tail_without_end_alone(outcomes: dict[str, Outcome], folder: Path) -> None:
    """A source that sends what was asked and more without end gives at most its first chunks, and no wrong byte."""
    outcome = outcomes["EndlessTail alone"]
    if outcome.code == 0:
        assert_pulled(outcome, folder)
    else:
        assert_named(outcome, (NETWORK, PROTOCOL), folder)


def test_polite_closer_alone(outcomes: dict[str, Outcome], folder: Path) -> None:
    """A server that closes after every second answer is a good source."""
    assert_pulled(outcomes["PoliteCloser alone"], folder)


@pytest.mark.parametrize("lie", EARLY_LIES, ids=lambda lie: f"{lie[0].__name__} {lie[1]}")
def test_lie_before_the_chunks(lie: tuple[type[Liar], str], outcomes: dict[str, Outcome], folder: Path) -> None:
    """A lie about head, nodes or inventory ends in its error alone, and in a good pull beside a good source."""
    name = f"{lie[0].__name__} {lie[1]}"
    assert_named(outcomes[f"{name} alone"], EARLY_LIES[lie], folder)
    assert_pulled(outcomes[f"{name} beside"], folder)


@pytest.mark.parametrize("kind", TREE_LIES, ids=lambda kind: kind.__name__)
def test_lie_of_an_origin(kind: type[Liar], outcomes: dict[str, Outcome], folder: Path) -> None:
    """A web server that lies about packs ends in its error alone, and in a good pull beside a good source."""
    assert_named(outcomes[f"tree {kind.__name__} alone"], TREE_LIES[kind], folder)
    assert_pulled(outcomes[f"tree {kind.__name__} beside"], folder)


def test_head_of_another_name(outcomes: dict[str, Outcome], folder: Path) -> None:
    """A head that is rightly signed for another name ends with exit 4 alone, and is passed over beside a good one."""
    assert_named(outcomes["OtherHead alone"], (TRUST,), folder)
    assert outcomes["OtherHead alone"].answer["error"]["code"] == "wrong_head"
    assert_pulled(outcomes["OtherHead beside"], folder)


def test_what_a_liar_gave_in_truth_is_kept(outcomes: dict[str, Outcome], folder: Path, tmp_path: Path) -> None:
    """After a pull that a liar spoiled, a good source brings only what is missing."""
    spoiled = Home(tmp_path / "home")
    shutil.copytree(outcomes["ShortBody alone"].home, spoiled.path)
    tree = outcomes["ShortBody alone"].home.parent.parent / "tree"
    result = spoiled.pull("acme/model", "--from", tree)
    assert_equal_files(result["path"], folder)
    assert result["bytes"]["wan"] + result["bytes"]["reused"] == size_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [liars.Silent, liars.Dribble, liars.SilentInBody, liars.HangsUp], ids=lambda k: k.__name__
)
async def test_real_patience(kind: type[Liar], shop_stage: Stage, tmp_path: Path) -> None:
    """With the bounds that users have, a pull from a silent or breaking source alone ends with exit 7 too."""
    node = Home(tmp_path / "node")
    shutil.copytree(shop_stage.trusting, node.path)
    liar: Liar = kind(SeedAnswers(shop_stage.seed))
    async with liar.running() as url:
        done = await asyncio.to_thread(node.run, "pull", "acme/model", "--from", url, "--json", code=NETWORK)
    assert done.error["code"] in ("stalled", "source_timeout")


@pytest.fixture(scope="module")
def shop_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A published model and its running seed."""
    base = tmp_path_factory.mktemp("stage")
    publisher = Publisher.at(base / "publisher")
    folder = make_model(base / "model", layers=2)
    publisher.publish(folder)
    publisher.node(base / "trusting")
    with publisher.home.serve() as seed:
        yield Stage(folder, seed.address, base, base / "trusting", base, b"", b"")
