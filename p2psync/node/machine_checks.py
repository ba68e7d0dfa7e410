"""What is looked at of the machine itself: interpreter, packages, engines, bounds, memory, environment.

Packages are judged by their metadata and never imported: one that is broken must not break the report.
"""

from __future__ import annotations

import platform
import re
import resource
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from p2psync.limits import DESCRIPTORS_BUSY, KIB, MEMORY_LOW_BYTES, OPEN_FILES_MAX
from p2psync.node.findings import Finding, failed, ok, warning

PYTHON_MIN: Final = (3, 11)
_MACHINES: Final = frozenset({"x86_64", "aarch64"})
# Distributions that put the same files of the package `onnxruntime` in place.
_RUNTIMES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)")
_AT_LEAST: Final = re.compile(r">=\s*([0-9.]+)")
_PROXIES: Final = ("http_proxy", "https_proxy")
_PROXY_FOR_ALL: Final = "all_proxy"
_GROUP: Final = Path("/sys/fs/cgroup")


def check_python(version: tuple[int, ...] | None = None, system: str = "", machine: str = "") -> Finding:
    """The interpreter and the platform that it runs on."""
    version = version or tuple(sys.version_info[:3])
    system, machine = system or platform.system(), machine or platform.machine()
    found = f"Python {'.'.join(map(str, version))} on {system} {machine}"
    if version < PYTHON_MIN:
        return failed("python", found, f"p2psync needs Python {'.'.join(map(str, PYTHON_MIN))} or newer")
    if system != "Linux":
        return failed("python", found, "p2psync runs on Linux")
    if machine not in _MACHINES:
        return warning("python", found, "p2psync is tested on x86_64 and aarch64 only")
    return ok("python", found)


def check_packages(distribution: str = "p2psync") -> Finding:
    """The packages that every verb needs, with at least the versions that they need."""
    try:
        wanted = [text for text in metadata.requires(distribution) or () if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        hint = "install it with pip, so that pip can tell what it needs"
        return warning("packages", f"{distribution} runs from a directory and says not what it needs", hint)
    missing, old = [], []
    for name, least in map(_parse, wanted):
        have = _version(name)
        if have is None:
            missing.append(name)
        elif _numbers(have) < _numbers(least):
            old.append(f"{name} {have} (needs {least})")
    if missing:
        return failed("packages", f"missing: {', '.join(missing)}", f"pip install --upgrade {distribution}")
    if old:
        return warning("packages", f"too old: {', '.join(old)}", f"pip install --upgrade {distribution}")
    return ok("packages", f"{distribution} {_version(distribution)} and the {len(wanted)} that it needs")


def check_runtimes() -> Finding:
    """Two distributions of onnxruntime: the later one overwrote files of the earlier, and removing one breaks both."""
    found = [f"{name} {version}" for name in _RUNTIMES if (version := _version(name))]
    if len(found) > 1:
        names = " ".join(text.partition(" ")[0] for text in found)
        hint = f"they overwrite each other's files: pip uninstall -y {names}, then install one of them"
        return failed("onnxruntime", " and ".join(found), hint)
    return ok("onnxruntime", found[0] if found else "not installed: models are moved here, not run")


def check_backends() -> Finding:
    """Which libraries that run engines are installed. Whether they work, only running one shows."""
    installed = {name for name in map(_distribution_name, metadata.distributions()) if name}
    plain = "onnxruntime" in installed
    backends = [
        name
        for name, there in (
            ("ort-cpu", plain or "onnxruntime-gpu" in installed),
            ("ort-cuda", "onnxruntime-gpu" in installed),
            ("tensorrt", any(_is_tensorrt(name) for name in installed) and "cuda-bindings" in installed),
            ("tensorrt-rtx", any(_is_rtx(name) for name in installed) and "cuda-bindings" in installed),
        )
        if there
    ]
    if not backends:
        return ok("backends", "none: models are moved here, not run")
    lacking = [name for name in ("numpy", "tokenizers", "av") if name not in installed]
    found = f"{', '.join(backends)} installed, not tried"
    if lacking:
        extra = "gpu" if "ort-cuda" in backends else "engine"
        return warning("backends", f"{found}; missing: {', '.join(lacking)}", f"pip install 'p2psync[{extra}]'")
    return ok("backends", found)


def check_open_files() -> Finding:
    """Files and connections that a node keeps open, against what the process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS_BUSY
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"{soft} may be open")
    reachable = hard == resource.RLIM_INFINITY or hard >= needed
    hint = f"ulimit -n {needed}" if reachable else f"LimitNOFILE={needed} in its unit, or nofile in limits.conf"
    found = f"{soft} may be open, a busy node needs {needed}"
    return (failed if soft < OPEN_FILES_MAX else warning)("open files", found, hint)


def check_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = _GROUP) -> Finding | None:
    """Memory that can be had without swapping, inside the limit of the control group."""
    free = _available(meminfo)
    most, used = _number(group / "memory.max"), _number(group / "memory.current")
    if most is not None and used is not None:
        left = max(0, most - used + _inactive(group / "memory.stat"))
        free = left if free is None else min(free, left)
    if free is None:
        return None
    found = f"{free // KIB**2} MiB available"
    if free < MEMORY_LOW_BYTES:
        hint = (
            f"a pull of a large model takes up to {MEMORY_LOW_BYTES // KIB**2} MiB: end other programs, or add memory"
        )
        return warning("memory", found, hint)
    return ok("memory", found)


def check_proxies(environ: Mapping[str, str]) -> Finding:
    """Proxies that the environment names: used for what is outside. A value may hold a password, so names are told."""
    given = {name: environ.get(name) or environ.get(name.upper()) or "" for name in (*_PROXIES, _PROXY_FOR_ALL)}
    used = [name for name in _PROXIES if given[name]]
    odd = [name for name in used if given[name].partition("://")[0].lower() not in ("http", "https")]
    if odd:
        hint = "sources outside are reached through http://HOST:PORT, or directly"
        return warning("proxy", f"{' and '.join(odd)} set to no HTTP proxy", hint)
    if given[_PROXY_FOR_ALL] and len(used) < len(_PROXIES):
        hint = f"set {' and '.join(name for name in _PROXIES if not given[name])} where outside sources need a proxy"
        return warning("proxy", f"{_PROXY_FOR_ALL} is set, and not used", hint)
    return ok("proxy", f"{' and '.join(used)} for sources outside" if used else "none set")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parse(requirement: str) -> tuple[str, str]:
    """Name and lowest version of a requirement; empty where it names none."""
    found = _REQUIREMENT.match(requirement)
    if found is None:
        return requirement, ""
    least = _AT_LEAST.search(found[2])
    return found[1], least[1] if least else ""


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, without trailing zeros: ``1.20`` and ``1.20.0`` are the same."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _distribution_name(distribution: metadata.Distribution) -> str:
    """The normalised name (PyPA, Names and normalization); empty where the metadata is broken."""
    name = distribution.metadata["Name"] if distribution.metadata else None
    return re.sub(r"[-_.]+", "-", name).lower() if name else ""


def _is_rtx(name: str) -> bool:
    return name.startswith("tensorrt-rtx")


def _is_tensorrt(name: str) -> bool:
    return name == "tensorrt" or name.startswith("tensorrt-cu")


def _available(meminfo: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s+([0-9]+) kB", _text(meminfo), re.MULTILINE)
    return int(found[1]) * KIB if found else None


def _inactive(stat: Path) -> int:
    """Pages of files count as used until somebody else wants them."""
    found = re.search(r"^inactive_file ([0-9]+)", _text(stat), re.MULTILINE)
    return int(found[1]) if found else 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
