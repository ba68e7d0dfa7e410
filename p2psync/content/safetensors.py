"""Where the tensors of a safetensors file stand, read from its header and from nothing else.

The file is an 8-byte little-endian length, a JSON object of that many bytes, and the tensors, which touch and
reach the end. The JSON has one fixed shape (https://github.com/huggingface/safetensors#format), so it is read by
that grammar: what a general JSON parser lets pass (a name twice, NaN, depth, other fields) has no place in it, and
every refusal knows its byte.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from p2psync.content.spans import BlobKind, Span
from p2psync.content.tensors import DTYPE_BITS, name_fault, tensor_bits
from p2psync.content.window import Window
from p2psync.errors import MalformedError
from p2psync.limits import TENSOR_HEADER_BYTES_MAX, TENSOR_METADATA_MAX, TENSOR_RANK_MAX, TENSORS_PER_FILE_MAX

_LENGTH_BYTES: Final = 8
_BLANKS: Final = b" \t\n\r"
_SPACE: Final = rb"[ \t\n\r]*+"
_STRING: Final = rb'"((?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)"'
_NUMBER: Final = rb"(?:0|[1-9][0-9]*+)"
_OPEN: Final = re.compile(rb"\{" + _SPACE)
_CLOSE: Final = re.compile(rb"\}" + _SPACE)
_COMMA: Final = re.compile(_SPACE + rb"," + _SPACE)
_KEY: Final = re.compile(_STRING + _SPACE + rb":" + _SPACE)
_TEXT: Final = re.compile(_STRING + _SPACE)
_NUMBERS: Final = re.compile(
    rb"\[" + _SPACE + rb"((?:" + _NUMBER + _SPACE + rb"(?:," + _SPACE + _NUMBER + _SPACE + rb")*+)?)\]" + _SPACE
)
_NUMBER_DIGITS_MAX: Final = 19
_NUMBER_MAX: Final = (1 << 63) - 1


class _Entry(NamedTuple):
    """One tensor as the header declares it. ``begin`` and ``end`` count from the end of the header."""

    begin: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def looks_like(window: Window) -> bool:
    """Whether a file of any name frames itself as safetensors: a length, ``{``, ``}``, ``"data_offsets"`` between."""
    if window.size < _LENGTH_BYTES + 2:
        return False
    (length,) = window.u64s(0, 1)
    if not 2 <= length <= min(TENSOR_HEADER_BYTES_MAX, window.size - _LENGTH_BYTES):
        return False
    if window.take(_LENGTH_BYTES, 1) != b"{":
        return False
    text = window.take(_LENGTH_BYTES, length)
    return text.rstrip(_BLANKS).endswith(b"}") and b'"data_offsets"' in text


def read_spans(window: Window) -> tuple[Span, ...]:
    """Cut a safetensors file: its header, then one span per tensor in file order.

    Raises:
        MalformedError: the file does not follow its format, or exceeds a bound of ``limits``.
    """
    window.refuse_pointer()
    (length,) = window.u64s(0, 1)
    if length > TENSOR_HEADER_BYTES_MAX:
        raise window.fault(f"declares a header of {length} bytes; at most {TENSOR_HEADER_BYTES_MAX} are read", 0)
    if length > window.size - _LENGTH_BYTES:
        raise window.fault(f"declares a header of {length} bytes and has {window.size - _LENGTH_BYTES}", 0)
    entries = _Header(window, window.take(_LENGTH_BYTES, length)).entries()
    header_bytes = _LENGTH_BYTES + length
    _check_cover(window, header_bytes, entries)
    spans = [Span(BlobKind.HEADER, header_bytes)]
    spans += [Span(BlobKind.TENSOR, e.end - e.begin, e.name, e.dtype, e.shape) for e in entries]
    return tuple(spans)


def _check_cover(window: Window, header_bytes: int, entries: list[_Entry]) -> None:
    """Demand that tensors touch, start at the header's end and reach the end of the file."""
    position = 0
    for entry in entries:
        if entry.begin != position:
            what = "overlaps the tensor before" if entry.begin < position else "leaves a hole before"
            raise window.fault(f"has a tensor {_quote(entry.name)} that {what} it", header_bytes + entry.begin)
        position = entry.end
    end = header_bytes + position
    if end > window.size:
        raise window.fault(f"ends after {window.size} bytes; its tensors end at {end}", window.size)
    if end < window.size:
        raise window.fault(f"has {window.size - end} bytes after its last tensor", end)


def _quote(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "...")


class _Header:
    """A cursor over the JSON text of a header."""

    def __init__(self, window: Window, text: bytes) -> None:
        self._window = window
        self._text = text
        self._at = 0

    def entries(self) -> list[_Entry]:
        """All tensors in file order: by begin, then end, then name."""
        self._expect(_OPEN, "{")
        found: dict[str, _Entry] = {}
        has_metadata = False
        while not self._closes(first=not found and not has_metadata):
            at = self._at
            name = self._string(_KEY, "a name and a colon")
            if name == "__metadata__":
                if has_metadata:
                    raise self._fault("has two __metadata__ objects", at)
                has_metadata = True
                self._metadata()
                continue
            if name in found:
                raise self._fault(f"has two tensors called {_quote(name)}", at)
            if reason := name_fault(name):
                raise self._fault(f"has a tensor name {_quote(name)} that {reason}", at)
            if len(found) == TENSORS_PER_FILE_MAX:
                raise self._fault(f"has more than {TENSORS_PER_FILE_MAX} tensors", at)
            found[name] = self._entry(name, at)
        if self._at != len(self._text):
            raise self._fault("has text after the end of its header's JSON", self._at)
        return sorted(found.values())

    def _metadata(self) -> None:
        """Pass over an object of strings."""
        self._expect(_OPEN, "{ (the __metadata__ object)")
        seen: set[str] = set()
        while not self._closes(first=not seen):
            at = self._at
            key = self._string(_KEY, "a name and a colon")
            if key in seen:
                raise self._fault(f"has two metadata values called {_quote(key)}", at)
            if len(seen) == TENSOR_METADATA_MAX:
                raise self._fault(f"has more than {TENSOR_METADATA_MAX} metadata values", at)
            seen.add(key)
            self._string(_TEXT, "a string (metadata holds nothing else)")

    def _entry(self, name: str, name_at: int) -> _Entry:
        """One tensor's dtype, shape and data_offsets, in any order, each once, and nothing else."""
        self._expect(_OPEN, f"{{ (what tensor {_quote(name)} is)")
        dtype: str | None = None
        shape: tuple[int, ...] | None = None
        offsets: tuple[int, ...] | None = None
        first = True
        while not self._closes(first=first):
            first = False
            at = self._at
            field = self._expect(_KEY, "a field and a colon")[1]
            if field == b"dtype" and dtype is None:
                dtype = self._dtype(name)
            elif field == b"shape" and shape is None:
                shape = self._numbers("shape")
            elif field == b"data_offsets" and offsets is None:
                offsets = self._numbers("data_offsets")
            else:
                what = "twice" if field in {b"dtype", b"shape", b"data_offsets"} else "that the format does not have"
                raise self._fault(f"gives tensor {_quote(name)} a field {field[:80]!r} {what}", at)
        if dtype is None or shape is None or offsets is None:
            raise self._fault(f"does not give tensor {_quote(name)} its dtype, shape and data_offsets", name_at)
        self._check_size(name, dtype, shape, offsets, name_at)
        return _Entry(offsets[0], offsets[1], name, dtype, shape)

    def _check_size(self, name: str, dtype: str, shape: tuple[int, ...], offsets: tuple[int, ...], at: int) -> None:
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._fault(f"gives tensor {_quote(name)} offsets that are no begin and end", at)
        bits = tensor_bits(shape, DTYPE_BITS[dtype])
        if bits is None:
            raise self._fault(f"gives tensor {_quote(name)} a shape that overflows", at)
        if bits % 8:
            raise self._fault(f"gives tensor {_quote(name)} a shape that does not fill its last byte", at)
        if bits // 8 != offsets[1] - offsets[0]:
            declared = f"{bits // 8} bytes of {dtype} and {offsets[1] - offsets[0]} bytes of room"
            raise self._fault(f"gives tensor {_quote(name)} {declared}", at)

    def _dtype(self, name: str) -> str:
        at = self._at
        dtype = self._string(_TEXT, "a string (the dtype)")
        if dtype not in DTYPE_BITS:
            raise self._fault(f"gives tensor {_quote(name)} an unknown dtype {_quote(dtype)}", at)
        return dtype

    def _numbers(self, field: str) -> tuple[int, ...]:
        at = self._at
        listed = self._expect(_NUMBERS, f"a list of non-negative integers (the {field})")[1]
        if not listed:
            return ()
        if listed.count(b",") >= TENSOR_RANK_MAX:
            raise self._fault(f"has a {field} of more than {TENSOR_RANK_MAX} numbers", at)
        texts = [text.strip(_BLANKS) for text in listed.split(b",")]
        if max(map(len, texts)) > _NUMBER_DIGITS_MAX or max(numbers := tuple(map(int, texts))) > _NUMBER_MAX:
            raise self._fault("has a number that does not fit 63 bits", at)
        return numbers

    def _closes(self, *, first: bool) -> bool:
        """Whether the object ends here. Otherwise the cursor stands at its next key, after a comma."""
        if match := _CLOSE.match(self._text, self._at):
            self._at = match.end()
            return True
        if not first:
            self._expect(_COMMA, "a comma or }")
        return False

    def _string(self, pattern: re.Pattern[bytes], what: str) -> str:
        at = self._at
        raw = self._expect(pattern, what)[1]
        try:
            if b"\\" not in raw:
                return raw.decode()
            text: str = json.loads(f'"{raw.decode()}"')
            text.encode()
        except UnicodeError as error:
            raise self._fault("has a string that is not Unicode", at) from error
        return text

    def _expect(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._fault(f"has a header that is not what it must be: expected {what}", self._at)
        self._at = match.end()
        return match

    def _fault(self, message: str, at: int) -> MalformedError:
        return self._window.fault(message, _LENGTH_BYTES + at)
