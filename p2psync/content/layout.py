"""How one file is cut: which format it has, and the spans that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

from p2psync.content import gguf, safetensors
from p2psync.content.spans import BlobKind, ExternalTensor, FileFormat, Layout, ReadAt, Span
from p2psync.content.window import Window
from p2psync.limits import TENSORS_PER_FILE_MAX


def file_layout(name: str, size: int, read_at: ReadAt, external: Sequence[ExternalTensor] = ()) -> Layout:
    """Decide how a file is cut. Reads headers, never tensors.

    Args:
        name: The file's path; its suffix counts, and it stands in messages.
        size: The file's size in bytes.
        read_at: Reads the file.
        external: The tensors that ONNX skeletons beside it keep in this file (see ``external_tensors``).

    Returns:
        Spans that touch and cover the file. A safetensors or GGUF file is known by its suffix or by how it starts;
        any other file is ONNX external data if ``external`` names tensors in it, else one span of bytes, which
        only content can cut.

    Raises:
        MalformedError: a safetensors or GGUF file does not follow its format, or ``external`` does not fit the file.
    """
    window = Window(name, size, read_at)
    _check_inside(window, external)
    suffixed = name.lower().endswith
    if suffixed(".safetensors") or safetensors.looks_like(window):
        return Layout(FileFormat.SAFETENSORS, safetensors.read_spans(window))
    if external:
        return Layout(FileFormat.ONNX_DATA, _external_spans(window, external))
    if suffixed(".gguf") or gguf.looks_like(window):
        return Layout(FileFormat.GGUF, gguf.read_spans(window))
    return Layout(FileFormat.BYTES, (Span(BlobKind.BYTES, size),) if size else ())


def _check_inside(window: Window, external: Sequence[ExternalTensor]) -> None:
    """Demand that every external tensor ends inside the file."""
    if len(external) > TENSORS_PER_FILE_MAX:
        raise window.fault(f"holds {len(external)} external tensors; at most {TENSORS_PER_FILE_MAX} are read")
    for tensor in external:
        end = tensor.offset + tensor.length
        if end > window.size:
            raise window.fault(f"ends after {window.size} bytes; its tensor {tensor.name!r} ends at {end}", window.size)


def _external_spans(window: Window, external: Sequence[ExternalTensor]) -> tuple[Span, ...]:
    """Cut a file at the tensors that are kept in it; what none of them claims is a gap.

    Tensors of the same place are one span, under the name that sorts first.
    """
    spans: list[Span] = []
    position = 0
    placed: tuple[int, int] | None = None
    for tensor in sorted(external, key=lambda t: (t.offset, t.length, t.name, t.dtype, t.shape)):
        if (tensor.offset, tensor.length) == placed:
            continue
        if tensor.offset < position:
            raise window.fault(f"has a tensor {tensor.name!r} that overlaps the tensor before it", tensor.offset)
        if tensor.offset > position:
            spans.append(Span(BlobKind.GAP, tensor.offset - position))
        spans.append(Span(BlobKind.TENSOR, tensor.length, tensor.name, tensor.dtype, tensor.shape))
        position = tensor.offset + tensor.length
        placed = (tensor.offset, tensor.length)
    if position < window.size:
        spans.append(Span(BlobKind.GAP, window.size - position))
    return tuple(spans)
