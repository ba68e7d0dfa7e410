"""How the frozen vectors of cutting are written: parts that make a file, and its spans with their chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from blake3 import blake3

from tests.reference import cutting
from tests.reference.span import Span


def built(parts: Iterable[dict[str, Any]]) -> bytes:
    """The bytes that a vector's parts describe."""
    pieces = []
    for part in parts:
        match part:
            case {"hex": digits}:
                pieces.append(bytes.fromhex(digits))
            case {"text": text}:
                pieces.append(text.encode())
            case {"byte": byte, "length": length}:
                pieces.append(bytes([byte]) * length)
            case {"blake3": label, "length": length}:
                pieces.append(blake3(label.encode()).digest(length=length))
    return b"".join(pieces)


def cut(data: bytes, spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    """Spans as the vectors show them."""
    for span in spans:
        chunks = cutting.chunks(span.kind, data[: span.length])
        data = data[span.length :]
        shown: dict[str, Any] = {"kind": span.kind, "length": span.length}
        if span.kind == "TENSOR":
            shown |= {"name": span.name, "dtype": span.dtype, "shape": list(span.shape)}
        yield shown | {"chunks": [[len(chunk), f"b3:{blake3(chunk).hexdigest()}"] for chunk in chunks]}
