"""Hand a verb to the process that owns a home, without loading what runs it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from p2psync.errors import SourceUnreachableError
from p2psync.node.names import SOCKET_NAME
from p2psync.transport import call


async def hand_over(
    home: Path, verb: str, args: Mapping[str, Any], emit: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """The verb's result from the process that serves the home; None where none listens.

    Raises:
        P2PSyncError: what the verb raises there.
    """
    socket = home / SOCKET_NAME
    if not socket.exists():
        return None
    try:
        return await call(socket, verb, dict(args), emit)
    except SourceUnreachableError as error:
        # The socket is what an earlier owner left.
        if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return None
        raise
