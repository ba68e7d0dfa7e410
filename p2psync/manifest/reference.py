"""How people name a version: ``name[:tag][@b3:digest]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from p2psync.content import Digest
from p2psync.errors import InvalidReferenceError, MalformedError
from p2psync.limits import NAME_CHARS_MAX, TAG_CHARS_MAX

DEFAULT_TAG: Final = "latest"
_PARTS_MAX: Final = 4
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAG: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{TAG_CHARS_MAX - 1}}}")
# Homes and origin trees keep things of their own under a name, and these are their names.
_TAKEN: Final = re.compile(r"tags|digests|[0-9a-f]{64}|.*\.json")
_HINT: Final = "a reference is NAMESPACE/NAME, NAMESPACE/NAME:TAG or NAMESPACE/NAME@b3:DIGEST"


@dataclass(frozen=True, slots=True)
class Reference:
    """A name, a tag, and the digest of a root where one version is meant for ever.

    ``has_tag`` is whether the tag was written; it only decides how the reference prints.
    """

    name: str
    tag: str = DEFAULT_TAG
    digest: Digest | None = None
    has_tag: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_tag(self.tag)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            InvalidReferenceError: ``text`` is none.
        """
        rest, at, digest_text = text.partition("@")
        name, colon, tag = rest.partition(":")
        try:
            digest = Digest.parse(digest_text) if at else None
        except MalformedError as error:
            raise InvalidReferenceError(f"{text[:160]!r}: {error.message}", hint=_HINT) from error
        return cls(name, tag if colon else DEFAULT_TAG, digest, bool(colon))

    @property
    def namespace(self) -> str:
        """The part before the first ``/``, which is bound to its publisher."""
        return self.name.partition("/")[0]

    def at(self, digest: Digest) -> Reference:
        """The same reference, fixed to one version."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.has_tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest is not None else "")


def check_name(name: str) -> None:
    """Accept the name of a model: 2 to 4 parts joined by ``/``.

    Raises:
        InvalidReferenceError: it is none.
    """
    parts = name.split("/")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidReferenceError(f"the name {name[:160]!r} has more than {NAME_CHARS_MAX} characters", hint=_HINT)
    if not 2 <= len(parts) <= _PARTS_MAX or not all(_PART.fullmatch(part) for part in parts):
        text = f"the name {name!r} is not 2 to {_PARTS_MAX} parts of letters, digits, dot, underscore and dash"
        raise InvalidReferenceError(text, hint=_HINT)
    if taken := next((part for part in parts if _TAKEN.fullmatch(part)), None):
        raise InvalidReferenceError(
            f"the name {name!r} has the part {taken!r}, which stands for other things in a home"
        )


def check_tag(tag: str) -> None:
    """Accept a tag.

    Raises:
        InvalidReferenceError: it is none.
    """
    if not _TAG.fullmatch(tag):
        text = f"the tag {tag[:160]!r} is not 1 to {TAG_CHARS_MAX} letters, digits, dots, underscores and dashes"
        raise InvalidReferenceError(text, hint=_HINT)
