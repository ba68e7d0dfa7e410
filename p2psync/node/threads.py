"""Work in threads that leaves something behind, and so is waited for even where nobody wants it any more.

``asyncio.to_thread`` gives the caller up when it is cancelled, and the thread goes on: what it opens then is never
closed, and what it moves is moved while others clean up behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def to_its_end(work: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
    """Run ``work`` in a thread until it has ended, also where the caller is cancelled meanwhile.

    Args:
        work: What to do.
        undo: What to do with its result, in a thread, where the caller is gone.

    Raises:
        asyncio.CancelledError: the caller was cancelled; nothing of the work runs any more.
        BaseException: what ``work`` raised.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if not cancelled:
        return task.result()
    if task.exception() is None and undo is not None:
        await to_its_end(lambda: undo(task.result()))
    raise asyncio.CancelledError
