#!/usr/bin/env python3
"""Run the tests in a virtual environment made from the pinned requirements.

usage: tools/test.py [--full] [PYTEST ARGUMENT]...

``--full`` adds the tests marked slow: many seeds, long fuzzing, big files. Everything else goes to pytest.
"""

from __future__ import annotations

import os
import sys

import environment


def main(arguments: list[str]) -> None:
    """Replace this process by pytest, so that its closing line and its exit code are the last word."""
    environment.enter("dev")
    chosen = [argument for argument in arguments if argument != "--full"]
    if "--full" in arguments:
        chosen = ["-m", "slow or not slow", *chosen]
    os.chdir(environment.ROOT)
    command = [str(environment.PYTHON), "-m", "pytest", *chosen]
    sys.stdout.flush()
    os.execv(environment.PYTHON, command)


if __name__ == "__main__":
    main(sys.argv[1:])
