"""The bytes of each kind of node, and what a node may say on its own. How nodes make a tree is in ``tree``.

A node is one CBOR map with small integer keys; key 0 is its kind. Only the root may hold keys that this version does
not know. What is empty is absent. ``docs/format.md`` has every byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from p2psync.content import DIGEST_BYTES, BlobKind, Digest, FileFormat
from p2psync.errors import MalformedError, UnsupportedVersionError
from p2psync.limits import (
    BASES_MAX,
    CHUNK_BYTES,
    CHUNKS_PER_BLOB_MAX,
    CHUNKS_PER_VERSION_MAX,
    DTYPE_CHARS_MAX,
    FILE_BYTES_MAX,
    FILES_PER_VERSION_MAX,
    GROUP_BLOBS_MAX,
    TENSOR_RANK_MAX,
    VARIANTS_MAX,
)
from p2psync.manifest import cbor, typed
from p2psync.manifest.model import ChunkList, Variant
from p2psync.manifest.paths import check_paths, check_tensor_name

# The major version of the tree. A reader refuses every other.
FORMAT_MAJOR: Final = 1
# Root keys below this belong to this major version; the others may be a newer minor version's.
EXTRA_KEY_MIN: Final = 8
_EXTRA_KEY_MAX: Final = (1 << 32) - 1
# How many encoded chunks the forms name: a field of minor version 1, hence not below 8.
_ENCODED_KEY: Final = 16
_RESERVED: Final = ((5, "the forms"), (6, "the recipe"), (7, "the probes"))
_SHA256_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
_DTYPE: Final = re.compile(rf"[A-Za-z0-9_]{{1,{DTYPE_CHARS_MAX}}}")
_FORMATS: Final = {form.value: form for form in FileFormat}
_KINDS: Final = {kind.value: kind for kind in BlobKind}


class NodeKind(IntEnum):
    """What a node is, its key 0. The numbers are frozen in docs/format.md."""

    ROOT = 0
    FILE = 1
    GROUP = 2
    CHUNKS = 3


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as its group names it.

    ``ref`` is the digest of the blob's only chunk, or of its chunk list where ``listed``; None for an empty blob.
    """

    kind: BlobKind
    length: int
    ref: Digest | None
    listed: bool = False
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file as the root names it: ``content`` is its file node, or its blobs themselves where it has at most one."""

    path: str
    size: int
    sha256: bytes
    format: FileFormat
    content: Digest | tuple[BlobRow, ...]
    external: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """The root node. ``extra`` holds the fields of a newer minor version, as they are."""

    files: tuple[FileRow, ...]
    variants: tuple[Variant, ...] = ()
    bases: tuple[Digest, ...] = ()
    forms: Digest | None = None
    recipe: Digest | None = None
    probes: Digest | None = None
    encoded: int = 0
    extra: Mapping[int, Any] = field(default_factory=dict)


def encode_root(root: Root) -> bytes:
    """Write a root."""
    optional = {
        3: [_variant_value(v) for v in root.variants],
        4: b"".join(root.bases),
        5: root.forms,
        6: root.recipe,
        7: root.probes,
        _ENCODED_KEY: root.encoded,
    }
    known = {0: NodeKind.ROOT, 1: FORMAT_MAJOR, 2: [_file_value(f) for f in root.files]}
    return cbor.encode({**root.extra, **known, **{k: v for k, v in optional.items() if v}})


def encode_file(groups: Sequence[Digest]) -> bytes:
    """Write a file node: the digests of its groups, in file order."""
    return cbor.encode({0: NodeKind.FILE, 1: b"".join(groups)})


def encode_group(rows: Sequence[BlobRow]) -> bytes:
    """Write a group: some blobs that follow each other in a file."""
    return cbor.encode({0: NodeKind.GROUP, 1: [_blob_value(row) for row in rows]})


def encode_chunks(chunks: ChunkList) -> bytes:
    """Write a chunk list.

    Raises:
        MalformedError: a length has no place in four bytes.
    """
    try:
        lengths = b"".join(length.to_bytes(_LENGTH_BYTES) for length in chunks.lengths)
    except OverflowError as error:
        raise MalformedError("a chunk list with a length that no chunk can have") from error
    return cbor.encode({0: NodeKind.CHUNKS, 1: chunks.digests} | ({2: lengths} if lengths else {}))


def decode_root(data: bytes) -> Root:
    """Read a root.

    Raises:
        UnsupportedVersionError: another major version wrote it.
        MalformedError: it is no root, or a field is not what it must be.
        UnsafePathError: a path is not safe, or two of them could be one.
    """
    node = _node(data, NodeKind.ROOT)
    major = typed.integer(node.pop(1, None), "the major version")
    if major != FORMAT_MAJOR:
        text = f"a manifest of format {major}, and this p2psync reads format {FORMAT_MAJOR}"
        raise UnsupportedVersionError(text, hint="update p2psync")
    files = tuple(_file_row(v) for v in typed.array(node.pop(2, None), "the files", FILES_PER_VERSION_MAX))
    _check_files(files)
    variants = tuple(_variant(v, len(files)) for v in typed.array(node.pop(3, []), "the variants", VARIANTS_MAX))
    _check_variants(variants, files)
    bases = typed.digests(node.pop(4, b""), "the bases", BASES_MAX)
    if len(set(bases)) != len(bases):
        raise MalformedError("a root names one base twice")
    forms, recipe, probes = (typed.digest(node.pop(k), what) if k in node else None for k, what in _RESERVED)
    encoded = typed.integer(node.pop(_ENCODED_KEY, 0), "the count of encoded chunks", CHUNKS_PER_VERSION_MAX)
    if any(not EXTRA_KEY_MIN <= key <= _EXTRA_KEY_MAX for key in node):
        raise MalformedError("a root has a field that its format does not define")
    if encoded and forms is None:
        raise MalformedError("a root counts encoded chunks and names no forms")
    root = Root(files, variants, bases, forms, recipe, probes, encoded, extra=node)
    cbor.require_same(encode_root(root), data)
    return root


def decode_file(data: bytes) -> tuple[Digest, ...]:
    """Read a file node: the digests of its groups.

    Raises:
        MalformedError: it is no file node.
    """
    groups = typed.digests(_node(data, NodeKind.FILE).get(1), "the groups of a file")
    cbor.require_same(encode_file(groups), data)
    return groups


def decode_group(data: bytes) -> tuple[BlobRow, ...]:
    """Read a group.

    Raises:
        MalformedError: it is no group, or a row is not what it must be.
    """
    values = typed.array(_node(data, NodeKind.GROUP).get(1), "the blobs of a group", GROUP_BLOBS_MAX)
    if not values:
        raise MalformedError("an empty group")
    rows = tuple(_blob_row(v) for v in values)
    cbor.require_same(encode_group(rows), data)
    return rows


def decode_chunks(data: bytes) -> ChunkList:
    """Read a chunk list of two chunks or more. Whether it fits its blob is for the tree to say.

    Raises:
        MalformedError: it is no chunk list, or a length is out of bounds.
    """
    node = _node(data, NodeKind.CHUNKS)
    digests = typed.octets(node.get(1), "the digests of a chunk list")
    count, rest = divmod(len(digests), DIGEST_BYTES)
    if rest or not 2 <= count <= CHUNKS_PER_BLOB_MAX:
        raise MalformedError(f"a chunk list of {len(digests)} bytes, not of 2 to {CHUNKS_PER_BLOB_MAX} digests")
    packed = typed.octets(node.get(2, b""), "the lengths of a chunk list")
    if packed and len(packed) != count * _LENGTH_BYTES:
        raise MalformedError(f"a chunk list of {count} digests with {len(packed)} bytes of lengths")
    lengths = tuple(int.from_bytes(packed[i : i + _LENGTH_BYTES]) for i in range(0, len(packed), _LENGTH_BYTES))
    if lengths and not (min(lengths) > 0 and max(lengths) <= CHUNK_BYTES):
        raise MalformedError(f"a chunk list with a chunk that is empty or longer than {CHUNK_BYTES} bytes")
    chunks = ChunkList(digests, lengths)
    cbor.require_same(encode_chunks(chunks), data)
    return chunks


def _node(data: bytes, kind: NodeKind) -> dict[int, Any]:
    """The fields of a node that must be of ``kind``, without its key 0."""
    node = cbor.decode(data)
    if not isinstance(node, dict):
        raise MalformedError("a node is not a map")
    found = node.pop(0, None)
    if type(found) is not int or found != kind:
        raise MalformedError(f"a node of kind {kind.value} ({kind.name.lower()}) is due, not of kind {found!r}"[:200])
    return node


def _file_value(row: FileRow) -> list[Any]:
    content: Any = [_blob_value(b) for b in row.content] if isinstance(row.content, tuple) else row.content
    return [row.path, row.size, row.sha256, row.format, content] + [True] * row.external


def _file_row(value: Any) -> FileRow:
    values = typed.array(value, "a file", 6)
    if len(values) < 5:
        raise MalformedError(f"a file of {len(values)} fields; 5 or 6 are due")
    path = typed.text(values[0], "a path")
    shown = repr(path[:120])
    size = typed.integer(values[1], f"the size of {shown}", FILE_BYTES_MAX)
    sha256 = typed.octets(values[2], f"the SHA-256 of {shown}")
    if len(sha256) != _SHA256_BYTES:
        raise MalformedError(f"the SHA-256 of {shown} has {len(sha256)} bytes")
    form = _FORMATS.get(typed.integer(values[3], f"the format of {shown}"))
    if form is None:
        raise MalformedError(f"{shown} has the unknown format {values[3]}")
    content: Digest | tuple[BlobRow, ...]
    if isinstance(values[4], list):
        content = tuple(_blob_row(v) for v in typed.array(values[4], f"the blobs of {shown}", 1))
    else:
        content = typed.digest(values[4], f"the node of {shown}")
    return FileRow(path, size, sha256, form, content, external=len(values) == 6)


def _check_files(files: tuple[FileRow, ...]) -> None:
    if not files:
        raise MalformedError("a version has no files")
    check_paths(row.path for row in files)
    keys = [row.path.encode() for row in files]
    if any(a >= b for a, b in pairwise(keys)):
        raise MalformedError("the files of a version are not sorted by the bytes of their paths")


def _blob_value(row: BlobRow) -> list[Any]:
    ref: Any = b"" if row.ref is None else row.ref
    value = [row.kind, row.length, [ref] if row.listed else ref]
    return [*value, row.name, row.dtype, row.shape] if row.kind is BlobKind.TENSOR else value


def _blob_row(value: Any) -> BlobRow:
    values = typed.array(value, "a blob", 6)
    kind = _KINDS.get(typed.integer(values[0] if values else None, "the kind of a blob"))
    if kind is None:
        raise MalformedError(f"a blob of the unknown kind {values[0]}")
    due = 6 if kind is BlobKind.TENSOR else 3
    if len(values) != due:
        raise MalformedError(f"a {kind.name} blob of {len(values)} fields; {due} are due")
    length = typed.integer(values[1], "the length of a blob", FILE_BYTES_MAX)
    ref, listed = _ref(values[2], length)
    if kind is not BlobKind.TENSOR:
        if not length:
            raise MalformedError(f"an empty {kind.name} blob")
        return BlobRow(kind, length, ref, listed)
    name = typed.text(values[3], "a tensor name")
    check_tensor_name(name)
    dtype = typed.text(values[4], f"the dtype of {name!r}")
    if not _DTYPE.fullmatch(dtype):
        raise MalformedError(f"tensor {name!r} has the dtype {dtype[:80]!r}")
    dimensions = typed.array(values[5], f"the shape of {name!r}", TENSOR_RANK_MAX)
    shape = tuple([typed.integer(d, "a dimension of a tensor") for d in dimensions])
    return BlobRow(kind, length, ref, listed, name, dtype, shape)


def _ref(value: Any, length: int) -> tuple[Digest | None, bool]:
    """What a blob of ``length`` bytes refers to, and whether that is a chunk list."""
    if not length:
        if value != b"":
            raise MalformedError("an empty blob refers to chunks")
        return None, False
    if isinstance(value, list):
        return typed.digest(value[0] if value else None, "the chunk list of a blob"), True
    if length > CHUNK_BYTES:
        raise MalformedError(f"a blob of {length} bytes in one chunk")
    return typed.digest(value, "the chunk of a blob"), False


def _variant_value(variant: Variant) -> dict[int, Any]:
    value = {
        0: variant.name,
        1: variant.files,
        2: variant.default,
        3: variant.backend,
        4: variant.precision,
        5: variant.memory_bytes,
        6: variant.probe,
    }
    return {k: v for k, v in value.items() if v or k < 2}


def _variant(value: Any, file_count: int) -> Variant:
    if not isinstance(value, dict):
        raise MalformedError("a variant is not a map")
    name = typed.word(value.get(0), "the name of a variant")
    files = tuple(
        typed.integer(i, f"a file of variant {name}", file_count - 1)
        for i in typed.array(value.get(1), f"the files of variant {name}", file_count)
    )
    if any(a >= b for a, b in pairwise(files)):
        raise MalformedError(f"the files of variant {name} are not ascending")
    default = value.get(2, False)
    if type(default) is not bool:
        raise MalformedError(f"the default of variant {name} is no truth value")
    return Variant(
        name,
        files,
        default,
        typed.word(value[3], f"the backend of variant {name}") if 3 in value else "",
        typed.word(value[4], f"the precision of variant {name}") if 4 in value else "",
        typed.integer(value.get(5, 0), f"the memory of variant {name}"),
        typed.text(value.get(6, ""), f"the probe of variant {name}"),
    )


def _check_variants(variants: tuple[Variant, ...], files: tuple[FileRow, ...]) -> None:
    if len({v.name for v in variants}) != len(variants):
        raise MalformedError("two variants have one name")
    if sum(v.default for v in variants) > 1:
        raise MalformedError("more than one variant is the default")
    claimed = {index for variant in variants for index in variant.files}
    shared = {row.path for index, row in enumerate(files) if index not in claimed}
    for variant in variants:
        if variant.probe and variant.probe not in shared | {files[index].path for index in variant.files}:
            raise MalformedError(f"the probe of variant {variant.name} is none of its files")
