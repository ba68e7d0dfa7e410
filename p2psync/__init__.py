"""Model weights, moved once per building instead of once per machine.

``pull`` and ``publish`` are plain functions, ``Node`` is a node inside your own event loop. Names are loaded when
they are first used, so importing this package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2psync.errors import P2PSyncError
    from p2psync.manifest import Reference
    from p2psync.node.api import PullResult, publish, pull
    from p2psync.node.node import Node, ServeOptions

__version__ = "0.1.0"

__all__ = [
    "Node",
    "P2PSyncError",
    "PullResult",
    "Reference",
    "ServeOptions",
    "__version__",
    "publish",
    "pull",
]

_HOMES = {
    "Node": "p2psync.node.node",
    "P2PSyncError": "p2psync.errors",
    "PullResult": "p2psync.node.api",
    "Reference": "p2psync.manifest",
    "ServeOptions": "p2psync.node.node",
    "publish": "p2psync.node.api",
    "pull": "p2psync.node.api",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home, once."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
