"""What a thread opens is closed, and what it moves is moved, before whoever was cancelled goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from p2psync.node.operations import Owner, perform
from p2psync.node.threads import to_its_end
from p2psync.store import Store
from p2psync.transport import Server
from tests.unit.node.conftest import Shop


class Gate:
    """Work that says that it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.ended = False

    def work(self) -> Gate:
        self.begun.set()
        assert self.open.wait(60)
        self.ended = True
        return self


async def wait_for(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def test_the_result_and_the_error_of_the_work_are_those_of_the_caller() -> None:
    """As with any other thread."""
    assert await to_its_end(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await to_its_end(lambda: 1 // 0)


async def test_who_is_cancelled_waits_for_the_work_and_undoes_it() -> None:
    """However often; and not before it has ended."""
    gate, undone = Gate(), []
    task = asyncio.create_task(to_its_end(gate.work, undone.append))
    await wait_for(gate.begun)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.ended
    assert undone == [gate]


async def test_who_is_cancelled_does_not_hear_that_the_work_failed() -> None:
    """Nothing is left of it to undo."""
    gate, undone = Gate(), []

    def fail() -> None:
        gate.work()
        raise ValueError

    task = asyncio.create_task(to_its_end(fail, undone.append))
    await wait_for(gate.begun)
    task.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == []


async def test_a_pull_that_ends_while_it_begins_leaves_its_version_free(
    shop: Shop, trusting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's interrupt at that moment made each later pull of the version fail until the node was started anew."""
    gate, begin = Gate(), Store.begin

    def slowly(*args: Any) -> Any:
        gate.work()
        return begin(*args)

    server = Server(shop.store, node_id="0" * 64)
    url = await server.start("127.0.0.1", 0)
    try:
        words = {"reference": "acme/model", "sources": [{"url": url, "kind": "lan"}]}
        with Store.open(trusting) as store:
            owner = Owner(store)
            with monkeypatch.context() as patch:
                patch.setattr(Store, "begin", slowly)
                task = asyncio.create_task(perform(owner, "pull", words, lambda _: None))
                await wait_for(gate.begun)
                task.cancel()
                gate.open.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
            result = await perform(owner, "pull", words, lambda _: None)
            assert result["digest"] == str(shop.published.root)
    finally:
        await server.stop(1.0)
