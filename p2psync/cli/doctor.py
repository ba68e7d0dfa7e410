"""The verb that says what is wrong with this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from p2psync.cli.output import Output
from p2psync.cli.text import plural, printable, table

Options = Mapping[str, Any]
Json = Mapping[str, Any]

_SYMBOLS: Final = {"ok": "✓", "warning": "!", "failed": "✗"}
# Where one of these failed no verb works, and this is the exit code of those that would try.
_CODES: Final = {"python": 1, "packages": 1, "libraries": 1, "home": 6}


def doctor(options: Options, out: Output) -> int:
    """Look at this machine. What hurts only some verbs is told and ends with 0."""
    from p2psync.node.doctor import examine

    result = examine(Path(options["home"]), os.environ, offline=options["offline"])
    ill = [check["name"] for check in result["checks"] if check["outcome"] != "ok"]
    out.result(result, text=report(result), ids=ill)
    return next((_CODES[c["name"]] for c in result["checks"] if c["outcome"] == "failed" and c["name"] in _CODES), 0)


def report(result: Json) -> list[str]:
    """A row for each check, below it what to do where it is not well, and the sum."""
    checks = result["checks"]
    rows = [(_SYMBOLS[check["outcome"]], check["name"], check["found"]) for check in checks]
    head, *told = table(("", "CHECK", "FOUND"), rows)
    lines = [head]
    for check, line in zip(checks, told, strict=True):
        lines.append(line)
        if check["hint"] and check["outcome"] != "ok":
            lines.append(f"     hint: {printable(check['hint'])}")
    return [*lines, "", f"{result['failed']} failed, {plural(result['warnings'], 'warning')}"]
