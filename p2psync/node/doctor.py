"""What is wrong with this machine before it hurts: every check, in the order in which people should read them.

The home is neither owned nor changed, so this works beside a running node and on a read-only disk. A cloned image
is found where both machines run and one has met the other, or a neighbour both; alone it looks like the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from p2psync.node import machine_checks as machine
from p2psync.node.findings import Check, Finding, Outcome, failed, look_at


def examine(home: Path, environ: Mapping[str, str], *, offline: bool) -> dict[str, Any]:
    """Look at everything and return ``{"checks": [{name, outcome, found, hint}], "failed": n, "warnings": n}``.

    Args:
        home: The home, which need not exist.
        environ: The environment variables.
        offline: Open no socket: leave the network out.
    """
    findings = look_at([*_machine(environ), *_parts(home, offline=offline)])
    return {
        "checks": [
            {"name": each.name, "outcome": str(each.outcome), "found": each.found, "hint": each.hint or None}
            for each in findings
        ],
        "failed": sum(each.outcome is Outcome.FAILED for each in findings),
        "warnings": sum(each.outcome is Outcome.WARNING for each in findings),
    }


def _machine(environ: Mapping[str, str]) -> list[Check]:
    return [
        Check("python", machine.check_python),
        Check("packages", machine.check_packages),
        Check("onnxruntime", machine.check_runtimes),
        Check("backends", machine.check_backends),
        Check("memory", machine.check_memory),
        Check("open files", machine.check_open_files),
        Check("proxy", partial(machine.check_proxies, environ)),
    ]


def _parts(home: Path, *, offline: bool) -> list[Check]:
    """The checks of the parts that need the packages; where one cannot be loaded, that is what was found."""
    try:
        return [*_home(home), *([] if offline else _network(home))]
    except ImportError as error:
        return [Check("libraries", partial(_unloadable, str(error)))]


def _unloadable(why: str) -> Finding:
    hint = "install p2psync again, for this Python and this machine: pip install --force-reinstall p2psync"
    return failed("libraries", f"p2psync cannot be loaded: {why}", hint)


def _home(home: Path) -> list[Check]:
    from p2psync.node import home_checks as disk

    looks = {
        "home": disk.check_home,
        "home owner": disk.check_owner,
        "file system": disk.check_file_system,
        "disk room": disk.check_room,
        "home writes": disk.check_writable,
        "reflink": disk.check_reflink,
        "in use": disk.check_in_use,
        "store": disk.check_store,
        "pulls": disk.check_interrupted,
        "clock": disk.check_clock,
        "private files": disk.check_private,
        "trust": disk.check_trust,
    }
    return [Check(name, partial(look, home)) for name, look in looks.items()]


def _network(home: Path) -> list[Check]:
    from p2psync.node import network_checks as network

    return [
        Check("interfaces", network.check_interfaces),
        Check("multicast", network.check_multicast),
        Check("kernel", network.check_kernel),
        Check("identity", partial(network.check_identity, home)),
    ]
