"""Every error that p2psync raises, on one screen.

The branch says who must act and sets the exit code of the command line; the attributes carry the
facts; ``hint`` names the next step. A fault of one source is news while another source is left: it
becomes an error only when nobody is. This module imports nothing of ours.
"""

from __future__ import annotations


class P2PSyncError(Exception):
    """The root. ``code`` is stable for programs, ``exit_code`` for shells, ``hint`` for people."""

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """The class name in snake case without its ``Error``: ``DigestMismatchError`` is ``digest_mismatch``."""
        name = type(self).__name__.removesuffix("Error").replace("P2PSync", "P2psync")
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_") or "error"


# The caller must act (2).


class UsageError(P2PSyncError, ValueError):
    """An argument, a reference or a settings file is not what it must be."""

    exit_code = 2


class InvalidReferenceError(UsageError):
    """A reference is not ``name[:tag][@b3:digest]``."""


class InvalidConfigError(UsageError):
    """A settings file holds an unknown key or a value of the wrong type."""


# Nobody who was asked has it (3).


class NotFoundError(P2PSyncError, LookupError):
    """Nobody who was asked has it."""

    exit_code = 3


class ModelNotFoundError(NotFoundError):
    """No source, or not this store, knows the reference."""


class NodeNotRunningError(NotFoundError):
    """What is asked for is known to a running node alone, and none runs on this home."""


class VariantNotFoundError(NotFoundError):
    """The version has no variant of that name."""


# The publisher must act, or somebody pretends to be the publisher (4). Never skipped by a flag, and never
# retried by a pull; what watches a tag may wait.


class TrustError(P2PSyncError):
    """What was said is not said by whom we trust for it."""

    exit_code = 4


class UnknownSignerError(TrustError):
    """No trusted key is bound to this name."""


class BadSignatureError(TrustError):
    """The signature does not verify under the key that is bound to this name."""


class WrongHeadError(TrustError):
    """A head that was signed for another name, tag or digest than was asked for."""


class RollbackError(TrustError):
    """A version lower than one already accepted, or another content under an accepted version.

    The former may be a source that is ``behind``, as all are for a while after a publish: it may come right by itself.
    """

    def __init__(self, message: str, *, hint: str | None = None, behind: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.behind = behind


class ExpiredError(TrustError):
    """The head's validity has ended."""


# The bytes are wrong (5).


class IntegrityError(P2PSyncError):
    """Bytes are not what they must be."""

    exit_code = 5


class DigestMismatchError(IntegrityError):
    """Bytes do not hash to the digest that names them."""


class MalformedError(IntegrityError):
    """Bytes from outside do not follow their format. ``offset`` is where, in bytes, if known."""

    def __init__(self, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})", hint=hint)
        self.offset = offset


class UndecodableError(IntegrityError):
    """An encoded chunk that is what was signed gives other bytes, or what it needs is gone. No source is to blame."""


class UnsafePathError(IntegrityError):
    """A path that could leave its directory, or that two systems read differently."""


class DamagedError(IntegrityError):
    """Files of the store no longer hold the bytes that were proved."""


# This disk (6).


class StoreError(P2PSyncError):
    """The store on this machine cannot do it."""

    exit_code = 6


class StoreFullError(StoreError):
    """Not enough room. ``needed_bytes`` and ``free_bytes`` say how much is missing."""

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class StoreLockedError(StoreError):
    """Another process owns the store. ``pid`` names it."""

    def __init__(self, message: str, *, pid: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class StoreUnwritableError(StoreError):
    """The home, or a directory to write to, refuses writes."""


class StoreInUseError(StoreError):
    """What should be removed is needed by something that stays."""


# The network (7).


class NetworkError(P2PSyncError):
    """No source could be reached, or none kept delivering."""

    exit_code = 7
    retryable = True


class SourceUnreachableError(NetworkError):
    """A connection could not be made or broke."""


class SourceTimeoutError(NetworkError):
    """A source was silent or slower than the lowest accepted rate."""


class StalledError(NetworkError):
    """No proved byte from anywhere within the limit; says what is missing."""


class WithdrawnError(NetworkError):
    """A source no longer has a chunk that it offered."""


class DiscoveryError(NetworkError):
    """Multicast cannot be used on this machine; nodes are then found by address and by hearsay only."""


# The other side speaks wrongly (8).


class ProtocolError(P2PSyncError):
    """The other side does not keep to the protocol."""

    exit_code = 8


class RemoteProtocolError(ProtocolError):
    """An answer that the protocol does not allow: status, length, framing, redirect."""


class UnsupportedVersionError(ProtocolError):
    """Written by or for a newer p2psync than this one."""


class ChannelRefusedError(ProtocolError):
    """A node is none to keep a site channel with. ``reason`` is one word of docs/protocol.md."""

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


# A model (9).


class ModelError(P2PSyncError):
    """A model cannot be run or misses its quality floor."""

    exit_code = 9


class BackendUnavailableError(ModelError):
    """The library or the device that should run the model is not here, or something else would have run it."""


class UnsupportedModelError(ModelError):
    """A pipeline, an operator or a type that the backend does not run, or a directory that holds no engine."""


class IncompleteModelError(ModelError):
    """A part of an engine is missing, or belongs to another version than the rest."""


class WrongAnswerError(ModelError):
    """The golden probe was not answered as its publisher expects, or an answer is not a number."""


class UnfitRequestError(ModelError):
    """A prompt, a size or a length that this model cannot take."""


class MemoryShortError(ModelError):
    """Not enough memory. ``needed_bytes`` and ``available_bytes`` say how much is missing; None where nobody knows."""

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int | None,
        available_bytes: int | None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class GenerationCancelledError(ModelError):
    """The caller stopped a generation between two steps."""


class QualityError(ModelError):
    """A variant is under its floor. ``measure``, ``value``, ``floor`` and the ``worst`` layers say by what."""

    def __init__(
        self,
        message: str,
        *,
        measure: str,
        value: float,
        floor: float,
        worst: tuple[str, ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.measure = measure
        self.value = value
        self.floor = floor
        self.worst = worst


_PRECEDENCE = (TrustError, IntegrityError, StoreError, UsageError, ProtocolError, NetworkError, NotFoundError)


def worst(errors: list[P2PSyncError]) -> P2PSyncError:
    """Of the reasons why several sources failed, the one to report: trust, then integrity, ..., then network.

    Raises:
        ValueError: ``errors`` is empty.
    """
    if not errors:
        raise ValueError("worst() of no errors")
    rank = {branch: place for place, branch in enumerate(_PRECEDENCE)}
    return min(errors, key=lambda e: min((rank[b] for b in rank if isinstance(e, b)), default=len(rank)))
