"""Open files that are kept, so that reading a chunk costs no open; none is closed while somebody uses it."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import ClassVar
from weakref import WeakSet

from p2psync import open_files
from p2psync.limits import OPEN_FILES_MAX


class Kept:
    """One open file and how many use it. ``fd`` is valid until the last ``Descriptors.release``."""

    __slots__ = ("dropped", "fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.dropped = False


class Descriptors:
    """At most ``kept_max`` idle files stay open; the one that was used longest ago goes first.

    Where this process can open no more, all that are idle are closed, of every instance.
    """

    _all: ClassVar[WeakSet[Descriptors]] = WeakSet()

    def __init__(self, kept_max: int = OPEN_FILES_MAX) -> None:
        self._kept_max = open_files.share(kept_max)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._all.add(self)

    def acquire(self, key: Hashable, opener: Callable[[], int]) -> Kept:
        """The open file ``key``, opened by ``opener`` if it is not. Call ``release`` when done.

        Raises:
            OSError: ``opener`` did.
        """
        try:
            return self._acquire(key, opener)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
        for descriptors in tuple(self._all):
            descriptors.close_idle()
        return self._acquire(key, opener)

    def close_idle(self) -> None:
        """Close what nobody uses now; the next ``acquire`` opens it again."""
        with self._lock:
            for key in [key for key, kept in self._kept.items() if not kept.users]:
                self._retire(self._kept.pop(key))

    def _acquire(self, key: Hashable, opener: Callable[[], int]) -> Kept:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = Kept(opener())
            self._kept.move_to_end(key)
            kept.users += 1
            self._evict()
            return kept

    def release(self, kept: Kept) -> None:
        """Say that one user is done."""
        with self._lock:
            kept.users -= 1
            if kept.dropped and not kept.users:
                os.close(kept.fd)

    def drop(self, key: Hashable) -> None:
        """Forget a file: the next ``acquire`` opens it anew."""
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self._retire(kept)

    def close(self) -> None:
        """Close everything; what is still in use when its user is done."""
        with self._lock:
            while self._kept:
                self._retire(self._kept.popitem()[1])

    def _evict(self) -> None:
        excess = len(self._kept) - self._kept_max
        if excess <= 0:
            return
        for key in [k for k, kept in self._kept.items() if not kept.users][:excess]:
            self._retire(self._kept.pop(key))

    def _retire(self, kept: Kept) -> None:
        kept.dropped = True
        if not kept.users:
            os.close(kept.fd)
