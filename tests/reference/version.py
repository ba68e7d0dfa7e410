"""The manifest of a version: the root, its files with every blob and chunk, and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.reference import values
from tests.reference.cursor import require
from tests.reference.nodes import FILE_MAX, Blob, Chunk, Fetch, Nodes, check_groups, file_groups, group_rows, read_blob

_FILES_MAX = 65_536
_BLOBS_MAX = 1 << 20
_CHUNKS_MAX = 1 << 22
_VARIANTS_MAX = 64
_BASES_MAX = 64
_BYTES, _ONNX_DATA = 0, 3


@dataclass(frozen=True)
class File:
    """A file: ``form`` is 0 bytes, 1 safetensors, 2 GGUF, 3 ONNX external data."""

    path: str
    size: int
    sha256: bytes
    form: int
    blobs: tuple[Blob, ...]
    external: bool


@dataclass(frozen=True)
class Variant:
    """A part of the files by name, and what it needs."""

    name: str
    files: tuple[int, ...]
    default: bool
    backend: str
    precision: str
    memory_bytes: int
    probe: str


@dataclass(frozen=True)
class Version:
    """All that a root says. ``extra`` holds the fields of a newer minor version."""

    files: tuple[File, ...]
    variants: tuple[Variant, ...]
    bases: tuple[bytes, ...]
    forms: bytes | None
    recipe: bytes | None
    probes: bytes | None
    encoded: int
    extra: dict[int, Any]

    def chunks(self) -> list[Chunk]:
        """Distinct chunks in manifest order: the number of each is its place here."""
        every = (chunk for file in self.files for blob in file.blobs for chunk in blob.chunks)
        return list({chunk.digest: chunk for chunk in every}.values())


def read_version(root: bytes, fetch: Fetch) -> Version:
    """Read a version from its root, taking nodes from anybody.

    Raises:
        RefusedError: It breaks a rule of the page.
    """
    nodes = Nodes(fetch)
    node = nodes.get(root, 0, ())
    require(set(node) <= {1, 2, 3, 4, 5, 6, 7} | {key for key in node if 8 <= key < 2**32}, "another key of a root")
    require(node.get(1) == 1 and type(node[1]) is int, "another major version")
    rows = values.listed(node.get(2))
    require(1 <= len(rows) <= _FILES_MAX, "1 to 65,536 files")
    files = tuple(_file(nodes, row) for row in rows)
    _check_files(files)
    variants = tuple(_variant(row, len(files)) for row in values.listed(node[3])) if 3 in node else ()
    _check_variants(variants, files, present=3 in node)
    bases = tuple(values.digests(node[4])) if 4 in node else ()
    require(len(set(bases)) == len(bases) <= _BASES_MAX, "bases")
    require(16 not in node or 5 in node, "a count of encoded chunks without forms")
    forms, recipe, probes = (values.digest(node[key]) if key in node else None for key in (5, 6, 7))
    return Version(
        files,
        variants,
        bases,
        forms,
        recipe,
        probes,
        values.whole(node[16], _CHUNKS_MAX, 1) if 16 in node else 0,
        {key: value for key, value in node.items() if key >= 8 and key != 16},
    )


def _file(nodes: Nodes, row: Any) -> File:
    row = values.listed(row)
    require(len(row) in (5, 6), "a file of 5 or 6 values")
    require(len(row) == 5 or row[5] is True, "a sixth value that is not true")
    form = values.whole(row[3], _ONNX_DATA)
    size = values.whole(row[1], FILE_MAX)
    if isinstance(row[4], bytes):
        groups = [
            [read_blob(nodes, item) for item in group_rows(nodes, group)]
            for group in file_groups(nodes, values.digest(row[4]))
        ]
        require(sum(map(len, groups)) >= 2, "a file node of a file of one blob")
        check_groups(groups)
        blobs = tuple(blob for group in groups for blob in group)
    else:
        blobs = tuple(read_blob(nodes, item) for item in values.listed(row[4]))
        require(len(blobs) <= 1, "blobs that belong into a file node")
    found = File(values.path(row[0]), size, values.digest(row[2]), form, blobs, len(row) == 6)
    _check_blobs(found)
    return found


def _check_blobs(file: File) -> None:
    require(sum(blob.length for blob in file.blobs) == file.size, "blobs that are not the file's size")
    require(all((blob.kind == _BYTES) == (file.form == _BYTES) for blob in file.blobs), "a kind of another format")
    require(file.form != _BYTES or len(file.blobs) <= 1, "a file of format 0 with more than one blob")
    names = [blob.name for blob in file.blobs if blob.name]
    require(file.form == _ONNX_DATA or len(set(names)) == len(names), "two tensors of one name")


def _check_files(files: tuple[File, ...]) -> None:
    paths = [file.path.encode() for file in files]
    require(paths == sorted(set(paths)), "paths that are not sorted")
    values.check_apart([file.path for file in files])
    require(sum(len(file.blobs) for file in files) <= _BLOBS_MAX, "too many blobs")
    every = [chunk for file in files for blob in file.blobs for chunk in blob.chunks]
    require(len(every) <= _CHUNKS_MAX, "too many chunks")
    require(len({chunk.digest for chunk in every}) == len(set(every)), "a digest for chunks of two lengths")


def _variant(row: Any, files: int) -> Variant:
    require(isinstance(row, dict) and set(row) <= set(range(7)) and {0, 1} <= set(row), "the keys of a variant")
    require(2 not in row or row[2] is True, "a default that is not true")
    named = [values.whole(index, files - 1) for index in values.listed(row[1])]
    require(named == sorted(set(named)), "files that do not ascend")
    require(6 not in row or (isinstance(row[6], str) and row[6]), "a probe without a path")
    return Variant(
        values.label(row[0]),
        tuple(named),
        2 in row,
        values.label(row[3]) if 3 in row else "",
        values.label(row[4]) if 4 in row else "",
        values.whole(row[5], 2**63 - 1, 1) if 5 in row else 0,
        row.get(6, ""),
    )


def _check_variants(variants: tuple[Variant, ...], files: tuple[File, ...], *, present: bool) -> None:
    require(len(variants) <= _VARIANTS_MAX and bool(variants) == present, "1 to 64 variants, or no key")
    require(len({variant.name for variant in variants}) == len(variants), "two variants of one name")
    require(sum(variant.default for variant in variants) <= 1, "two defaults")
    named = {index for variant in variants for index in variant.files}
    for variant in variants:
        own = {file.path for index, file in enumerate(files) if index in variant.files or index not in named}
        require(not variant.probe or variant.probe in own, "a probe that is none of the variant's files")
