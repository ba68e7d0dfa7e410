"""What stands in a home beside the store."""

from __future__ import annotations

from typing import Final

# The control socket of the process that serves the home.
SOCKET_NAME: Final = "serve.sock"
