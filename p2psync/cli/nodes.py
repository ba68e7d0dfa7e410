"""The verbs of a running node: serve and status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2psync.cli import describe
from p2psync.cli.output import Output
from p2psync.cli.text import size
from p2psync.errors import UsageError

if TYPE_CHECKING:
    import signal

Options = Mapping[str, Any]
Json = dict[str, Any]

LOOPBACK: Final = "127.0.0.1"
WATCH_S: Final = 2.0
_LIMITS: Final = ("wan_down", "wan_up", "lan_up", "peer_up")
_CLEAR: Final = "\x1b[2J\x1b[H"


def serve(options: Options, out: Output) -> int:
    """Serve until stopped. SIGTERM is the good end (0), an interrupt is one too and says so (130)."""
    host, port = _where(options)
    if bool(options["follow"]) != bool(options["from"]):
        raise UsageError(
            "--follow and --from go together", hint="p2psync serve --open --follow acme/llama --from https://URL"
        )
    if options["offline"]:
        raise UsageError("--offline opens no connection, and serve lives on them", hint="leave out --offline")

    import asyncio

    from p2psync.cli.logs import end_log, log_event, log_to_stderr
    from p2psync.cli.running import watch_signals
    from p2psync.cli.stopping import Interrupted
    from p2psync.manifest import Reference
    from p2psync.node.node import ServeOptions
    from p2psync.node.node import serve as run_node
    from p2psync.node.rates import Limits
    from p2psync.node.watching import Exposure

    log_to_stderr(out, as_json=options["log_json"], lasting=True)
    caught: list[signal.Signals] = []

    async def until_stopped() -> None:
        stop = asyncio.Event()

        def end(number: signal.Signals) -> None:
            caught.append(number)
            stop.set()

        watch_signals(end)
        chosen = ServeOptions(
            host=host,
            port=port,
            site=options["site"] or "",
            discover=not options["no_discovery"],
            peers=tuple(options["peer"]),
            limits=Limits(up=options["upload_limit"], **{name: options[name] for name in _LIMITS}),
            follow=tuple(str(Reference.parse(text)) for text in options["follow"]),
            sources=tuple(options["from"]),
            metrics=Exposure(options["metrics"] or Exposure.LOOPBACK),
        )
        await run_node(Path(options["home"]), chosen, tell, stop)

    def tell(event: Json) -> None:
        _serve_event(event, out)
        log_event(event)

    try:
        asyncio.run(until_stopped())
    finally:
        end_log()  # What the log held back is said now.
    if caught and caught[0].name == "SIGINT":
        raise Interrupted
    return 0


def status(options: Options, out: Output) -> int:
    """What is stored, arriving and running; with ``--watch`` again and again."""
    from p2psync.node.inspect import inspect

    clear = options["watch"] and not out.as_json and sys.stdout is not None and sys.stdout.isatty()
    while True:
        result = inspect(Path(options["home"]), "status", {})
        if clear:
            out.line(_CLEAR)
        out.result(result, text=describe.status(result), ids=[result["serving"]] if result["serving"] else [])
        if not options["watch"]:
            return 0
        time.sleep(WATCH_S)
        if not (clear or out.as_json or out.quiet):
            out.line("")


def peers(options: Options, out: Output) -> int:
    """The other nodes of the site, as the running node sees them."""
    from p2psync.node.inspect import ask_owner

    result = ask_owner(Path(options["home"]), "peers", {})
    out.result(result, text=describe.peers(result), ids=[row["node"] for row in result["peers"]])
    if not result["peers"] and not out.as_json:
        out.note("no other node of the site was met")
    return 0


def limits(options: Options, out: Output) -> int:
    """See or change the limits of the running node."""
    from p2psync.node.inspect import ask_owner

    given = {name: options[name] for name in ("up", *_LIMITS) if options[name] is not None}
    changes = {name: rate or None for name, rate in given.items()}
    result = ask_owner(Path(options["home"]), "limits", changes)
    out.result({"limits": result}, text=describe.limits(result), ids=[name for name, rate in result.items() if rate])
    return 0


def _where(options: Options) -> tuple[str, int]:
    """Host and port to listen on. A LAN address needs ``--open``: whoever reaches it may read what is here."""
    address = options["listen"]
    if address is not None and not address.is_loopback and not options["open"]:
        raise UsageError(
            f"{address.host} is reached by other machines, and --open is not given",
            hint=f"p2psync serve --open --listen {address.host}:{address.port}",
        )
    host = address.host if address is not None else ""
    return host or ("" if options["open"] else LOOPBACK), address.port if address is not None else 0


def _serve_event(event: Json, out: Output) -> None:
    if out.as_json:
        out.line(json.dumps(event))
    elif event.get("event") == "listening":
        out.line(f"listening {event['url']} node={event['node']}")
    elif event.get("event") == "stopped":
        out.note(f"stopped, {size(event['sent_bytes'])} sent")
