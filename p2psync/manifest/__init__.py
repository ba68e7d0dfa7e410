"""What a model is, and who says so. Pure."""

from p2psync.manifest.compare import Comparison, FileChange, compare, likeness, match_tensors, missing_chunks
from p2psync.manifest.forms import Encoded, FormSet, FormsReader, Piece, SetKind, build_forms
from p2psync.manifest.head import MINIMUM, PAYLOAD_TYPE, Head, open_head, peek_head, peek_key_hint, sign_head
from p2psync.manifest.json_text import decode_json, encode_json
from p2psync.manifest.keys import SEED_BYTES, SigningKey, VerifyKey
from p2psync.manifest.layers import Layer, LayerChange, LayerKind, chunk_layers, layer_of
from p2psync.manifest.model import (
    Blob,
    Chunk,
    ChunkList,
    File,
    Manifest,
    Place,
    Variant,
    chunk_count,
    chunk_table,
    files_of,
)
from p2psync.manifest.nodes import EXTRA_KEY_MIN, FORMAT_MAJOR
from p2psync.manifest.packs import (
    INDEX_VERSION,
    PACKS_PER_INDEX_MAX,
    Extent,
    PackIndex,
    Spot,
    decode_index,
    encode_index,
)
from p2psync.manifest.paths import check_path, check_paths, check_tensor_name
from p2psync.manifest.reference import DEFAULT_TAG, Reference, check_name, check_tag
from p2psync.manifest.tree import Tree, TreeReader, build_tree, read_tree

__all__ = [
    "DEFAULT_TAG",
    "EXTRA_KEY_MIN",
    "FORMAT_MAJOR",
    "INDEX_VERSION",
    "MINIMUM",
    "PACKS_PER_INDEX_MAX",
    "PAYLOAD_TYPE",
    "SEED_BYTES",
    "Blob",
    "Chunk",
    "ChunkList",
    "Comparison",
    "Encoded",
    "Extent",
    "File",
    "FileChange",
    "FormSet",
    "FormsReader",
    "Head",
    "Layer",
    "LayerChange",
    "LayerKind",
    "Manifest",
    "PackIndex",
    "Piece",
    "Place",
    "Reference",
    "SetKind",
    "SigningKey",
    "Spot",
    "Tree",
    "TreeReader",
    "Variant",
    "VerifyKey",
    "build_forms",
    "build_tree",
    "check_name",
    "check_path",
    "check_paths",
    "check_tag",
    "check_tensor_name",
    "chunk_count",
    "chunk_layers",
    "chunk_table",
    "compare",
    "decode_index",
    "decode_json",
    "encode_index",
    "encode_json",
    "files_of",
    "layer_of",
    "likeness",
    "match_tensors",
    "missing_chunks",
    "open_head",
    "peek_head",
    "peek_key_hint",
    "read_tree",
    "sign_head",
]
