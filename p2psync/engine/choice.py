"""Which variant and which backend a node takes, and why it steps down.

The publisher's default comes first. A step down has a reason, and each reason its own target: no fast kernel for INT8
leads to the variant of highest precision that has one, also where the processor has one and a GPU has none; too little
memory, or no backend at all, leads to the smallest. Where INT8 is all that there is, it runs without a fast kernel, on
the processor or through torch, and says so.
Facts come from probes, so the same machine takes the same variant every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2psync.engine import backends, memory
from p2psync.engine.backends import Probe
from p2psync.engine.description import FILE_NAME, Description, read_description
from p2psync.engine.residency import growth
from p2psync.errors import (
    BackendUnavailableError,
    MemoryShortError,
    ModelError,
    UnsupportedModelError,
    VariantNotFoundError,
)
from p2psync.limits import INTEGER_MAX, MEMORY_SHARE

# What a precision in engine.json asks of a backend.
_KINDS: Final[Mapping[str, str]] = {"int8": "int8", "fp16": "float16"}
# A processor computes FP16 graphs in FP32: that is no kernel, and no reason to refuse.
_PLAIN: Final = frozenset({"float16", "float32"})
# Backends that run a precision without being fast at it.
_SLOW: Final = ("ort-cpu", "torch")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant that could run.

    ``turn_bytes`` are the largest weights that must be loaded at once, for a node that exchanges parts;
    ``needs_bytes`` is the memory that its publisher says it needs, and counts instead where it is not 0.
    """

    name: str
    precision: str
    weights_bytes: int
    turn_bytes: int = 0
    needs_bytes: int = 0
    backend: str = ""
    default: bool = False
    directory: Path = Path()

    def memory_bytes(self, backend: str) -> int:
        """What has to fit on a backend."""
        return self.needs_bytes or (self.turn_bytes or self.weights_bytes) * growth(self.precision, backend)


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs where. ``steps_down`` says what was passed over, and why, one sentence each."""

    candidate: Candidate
    backend: str
    steps_down: tuple[str, ...] = ()


def candidates(root: Path, needs: Mapping[str, tuple[str, int, bool]] | None = None) -> tuple[Candidate, ...]:
    """The engines that an installed version holds: itself, or directories directly inside it, by name.

    Args:
        root: Where the version is.
        needs: By variant, what its manifest says: backend, memory in bytes, whether it is the default.

    Raises:
        UnsupportedModelError: there is none.
    """
    folders = [root] if (root / FILE_NAME).is_file() else sorted(p.parent for p in root.glob(f"*/{FILE_NAME}"))
    if not folders:
        raise UnsupportedModelError(
            f"{root} holds no engine: no {FILE_NAME} in it or directly below", hint="p2psync show REF lists its files"
        )
    return tuple(_candidate(read_description(folder), (needs or {}).get(folder.name)) for folder in folders)


def _candidate(described: Description, needs: tuple[str, int, bool] | None) -> Candidate:
    backend, needs_bytes, default = needs or ("", 0, False)
    return Candidate(
        name=described.directory.name,
        precision=described.precision,
        weights_bytes=described.weights_bytes,
        turn_bytes=max(described.bytes_of(part) for part in described.parts),
        needs_bytes=needs_bytes,
        backend=backend,
        default=default,
        directory=described.directory,
    )


def choose(
    among: Sequence[Candidate],
    *,
    variant: str | None = None,
    backend: str | None = None,
    probes: Iterable[Probe] | None = None,
    available_bytes: int | None = None,
) -> Choice:
    """Take a variant and a backend.

    Args:
        among: The variants that are here.
        variant: Take this one or fail.
        backend: Take this one or fail.
        probes: What backends can do; None asks them.
        available_bytes: Memory of this machine; None asks it.

    Raises:
        ModelError: nothing runs; the message says what was passed over for what reason.
    """
    if probes is None and backend is not None:
        backends.backend(backend)
        probes = (backends.probe(backend),)
    found = {probe.backend: probe for probe in (backends.probes() if probes is None else probes)}
    free = memory.available_bytes() if available_bytes is None else available_bytes
    if backend is not None:
        _check_usable(backend, found)
        found = {backend: found[backend]}
    order = _order(among, variant)
    fits = {candidate: _fit(candidate, found, free) for candidate in order}
    quick = any(not reason and not _on_processor(found[name]) for reason, name in fits.values())
    passed: list[tuple[str, str]] = []
    least = INTEGER_MAX
    for candidate in order:
        reason, name = fits[candidate]
        if not reason and quick and _on_processor(found[name]):
            # A GPU is many times faster than the processor, also at the higher precision that it asks for.
            reason = "processor"
        if not reason:
            return Choice(candidate, name, tuple(text for _, text in passed))
        passed.append((reason, f"{candidate.name}: {_TEXTS[reason](candidate, found, free)}"))
        least = min(least, candidate.memory_bytes(name) if reason == "memory" else least)
    for candidate in order:
        if (slow := _slow_backend(candidate, found, free)) is not None:
            return Choice(candidate, slow, tuple(text for _, text in passed))
    raise _refusal(passed, least, free)


def backend_for(precision: str, probes: Iterable[Probe] | None = None) -> str:
    """The backend that a precision runs on here.

    Raises:
        BackendUnavailableError: there is none.
    """
    found = {probe.backend: probe for probe in (backends.probes() if probes is None else probes)}
    candidate = Candidate("", precision, 0)
    name = _backend(candidate, found) or _slow_backend(candidate, found, None)
    if name is None:
        raise BackendUnavailableError(
            f"nothing here runs {precision}: {_whys(found)}", hint="pip install 'p2psync[engine]'"
        )
    return name


def _order(among: Sequence[Candidate], variant: str | None) -> list[Candidate]:
    """The default, then higher precision before lower, then bigger before smaller: the way down."""
    if variant is not None:
        chosen = [candidate for candidate in among if candidate.name == variant]
        if not chosen:
            names = ", ".join(candidate.name for candidate in among)
            raise VariantNotFoundError(f"there is no variant {variant!r} here", hint=f"there is: {names}")
        return chosen
    return sorted(among, key=lambda c: (not c.default, _kind(c) == "int8", -c.weights_bytes, c.name))


def _fit(candidate: Candidate, found: Mapping[str, Probe], free: int | None) -> tuple[str, str]:
    name = _backend(candidate, found)
    if name is None:
        runs = any(probe.usable and _kind(candidate) in probe.precisions for probe in found.values())
        return ("slow" if runs else "backend"), ""
    return ("" if _has_room(candidate, found[name], free) else "memory"), name


def _backend(candidate: Candidate, found: Mapping[str, Probe]) -> str | None:
    """The first usable backend with a kernel for this precision; the one that the publisher named comes first.

    torch without a GPU comes last: onnxruntime is faster on processors, and starts without loading all of torch.
    """
    kind = _kind(candidate)

    def place(name: str) -> tuple[bool, bool, int]:
        return found[name].processor, name != candidate.backend, backends.NAMES.index(name)

    for name in sorted(found, key=place):
        probe = found[name]
        if not probe.usable:
            continue
        if kind in probe.fast or (kind in _PLAIN and kind in probe.precisions):
            return name
    return None


def _slow_backend(candidate: Candidate, found: Mapping[str, Probe], free: int | None) -> str | None:
    """What gives the right answer, without a kernel that makes the precision worth it: a GPU before the processor."""
    probes = [found[name] for name in _SLOW if name in found and found[name].usable]
    for probe in sorted(probes, key=_on_processor):
        if _kind(candidate) in probe.precisions and _has_room(candidate, probe, free):
            return probe.backend
    return None


def _on_processor(probe: Probe) -> bool:
    return probe.processor or probe.backend == "ort-cpu"


def _has_room(candidate: Candidate, probe: Probe, free: int | None) -> bool:
    """Whether a candidate fits in the memory of what would run it; unknown memory is enough."""
    room = free if _on_processor(probe) or probe.memory_bytes is None else probe.memory_bytes
    return room is None or candidate.memory_bytes(probe.backend) <= room * MEMORY_SHARE


def _kind(candidate: Candidate) -> str:
    return _KINDS.get(candidate.precision.partition("-")[0], "float32")


def _check_usable(name: str, found: Mapping[str, Probe]) -> None:
    if name not in found:
        backends.backend(name)
        raise BackendUnavailableError(f"backend {name} was not probed")
    if not found[name].usable:
        raise BackendUnavailableError(f"{name} cannot run here: {found[name].why_not}", hint=_hint(name))


def _hint(name: str) -> str:
    if name.startswith("tensorrt"):
        return "pip install 'p2psync[tensorrt]', on a machine with an NVIDIA GPU and its driver"
    if name == "torch":
        return "pip install 'p2psync[torch]'"
    return backends.CUDA_HINT if name == "ort-cuda" else "pip install 'p2psync[engine]'"


def _slow(candidate: Candidate, found: Mapping[str, Probe], _free: int | None) -> str:
    slow = [probe.backend for probe in found.values() if probe.usable and _kind(candidate) in probe.precisions]
    return f"no fast kernel for {candidate.precision} on {', '.join(slow)}"


def _no_backend(candidate: Candidate, found: Mapping[str, Probe], _free: int | None) -> str:
    return f"nothing here runs {candidate.precision} ({_whys(found)})"


def _short(candidate: Candidate, found: Mapping[str, Probe], free: int | None) -> str:
    needed = candidate.memory_bytes(_backend(candidate, found) or "")
    return f"needs {_mb(needed)} of memory, {_mb(free or 0)} are available"


def _processor(candidate: Candidate, found: Mapping[str, Probe], _free: int | None) -> str:
    gpus = [probe.backend for probe in found.values() if probe.usable and not _on_processor(probe)]
    return f"{candidate.precision} would run on the processor, and {', '.join(gpus)} runs another variant"


_TEXTS: Final = {"slow": _slow, "backend": _no_backend, "memory": _short, "processor": _processor}


def _whys(found: Mapping[str, Probe]) -> str:
    return "; ".join(f"{probe.backend}: {probe.why_not}" for probe in found.values() if not probe.usable) or "none"


def _mb(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:,.0f} MB"


def _refusal(passed: Sequence[tuple[str, str]], least_bytes: int, free: int | None) -> ModelError:
    text = "no variant runs here: " + "; ".join(text for _, text in passed)
    if all(reason == "memory" for reason, _ in passed):
        return MemoryShortError(
            text,
            needed_bytes=least_bytes,
            available_bytes=free or 0,
            hint="close other programs, or pull a smaller variant",
        )
    return BackendUnavailableError(text, hint="p2psync pull REF --variant NAME takes another one")
