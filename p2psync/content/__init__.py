"""What bytes are: their names, and where they are cut. Pure."""

from p2psync.content.chunking import ContentCutter, grid_lengths
from p2psync.content.digest import DIGEST_BYTES, Digest
from p2psync.content.layout import file_layout
from p2psync.content.onnx import external_tensors
from p2psync.content.spans import BlobKind, ExternalTensor, FileFormat, Layout, ReadAt, Span
from p2psync.content.tensors import name_fault

__all__ = [
    "DIGEST_BYTES",
    "BlobKind",
    "ContentCutter",
    "Digest",
    "ExternalTensor",
    "FileFormat",
    "Layout",
    "ReadAt",
    "Span",
    "external_tensors",
    "file_layout",
    "grid_lengths",
    "name_fault",
]
