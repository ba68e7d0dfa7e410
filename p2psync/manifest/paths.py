"""Which paths and names from outside are safe to use here, and mean the same on every system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from p2psync.content import name_fault
from p2psync.errors import MalformedError, UnsafePathError
from p2psync.limits import PATH_BYTES_MAX, PATH_PART_BYTES_MAX, PATH_PARTS_MAX

# Control characters, marks that reorder or break a printed line, and halves of surrogate pairs.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
# Windows opens a device under these names, whatever follows the first dot.
_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?:\.|$)", re.IGNORECASE
)


def check_path(path: str) -> None:
    """Accept a relative path below a version's directory, parts joined by ``/``, in Unicode form C.

    Raises:
        UnsafePathError: it could leave the directory, or another system would read it differently.
    """
    if reason := _path_fault(path):
        raise UnsafePathError(f"the path {path[:120]!r} {reason}")


def check_paths(paths: Iterable[str]) -> None:
    """Accept the paths of one version: each safe, and no two that a system could take for one.

    Raises:
        UnsafePathError: one is unsafe, two are equal but for case or Unicode form, or one is the directory of another.
    """
    files: dict[str, str] = {}
    for path in paths:
        check_path(path)
        if (other := files.get(folded(path))) is not None:
            raise UnsafePathError(f"the paths {other[:120]!r} and {path[:120]!r} are one path on some systems")
        files[folded(path)] = path
    for key, path in files.items():
        end = key.rfind("/")
        while end > 0:
            if (other := files.get(key[:end])) is not None:
                raise UnsafePathError(f"the path {other[:120]!r} is a file and the directory of {path[:120]!r}")
            end = key.rfind("/", 0, end)


def check_tensor_name(name: str) -> None:
    """Accept the name of a tensor.

    Raises:
        MalformedError: it looks like a path that leads out, or cannot be printed as it is.
    """
    if reason := name_fault(name):
        raise MalformedError(f"the tensor name {name[:120]!r} {reason}")


def folded(path: str) -> str:
    """What two paths have in common when some system takes them for one: letter case and Unicode form removed."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _path_fault(path: str) -> str | None:
    if not path:
        return "is empty"
    if _UNPRINTABLE.search(path):
        return "contains an unprintable character"
    if "\\" in path:
        return "contains a backslash"
    if path[0] in "/~":
        return f"starts with {path[0]}"
    if not unicodedata.is_normalized("NFC", path):
        return "is not in Unicode form C"
    if len(path.encode()) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    parts = path.split("/")
    if len(parts) > PATH_PARTS_MAX:
        return f"has more than {PATH_PARTS_MAX} parts"
    return next((reason for part in parts if (reason := _part_fault(part))), None)


def _part_fault(part: str) -> str | None:
    if not part:
        return "has an empty part"
    if part in {".", ".."}:
        return f"has the part {part}"
    if part[-1] in ". ":
        return "has a part that ends in a dot or a space"
    if _DRIVE.match(part):
        return "names a drive"
    if _DEVICE.match(part):
        return f"has the part {part[:40]!r}, which is a device on some systems"
    if len(part.encode()) > PATH_PART_BYTES_MAX:
        return f"has a part longer than {PATH_PART_BYTES_MAX} bytes"
    return None
