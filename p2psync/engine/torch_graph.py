"""An ONNX file as nodes, constants and a border: the protobuf of a graph that runs, read in place and without ``onnx``.

``content.external_tensors`` has walked every message before, so lengths and places outside are known to be sound; what
is left to say here is which fields matter. Source: onnx.proto3, ModelProto. Subgraphs, functions and sparse tensors are
what no skeleton holds, and are refused.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2psync.content import ExternalTensor, external_tensors
from p2psync.engine.description import Tensor
from p2psync.engine.torch_protobuf import BYTES, NOTHING, block, fields, integer, plain, signed, text, varints
from p2psync.errors import IncompleteModelError, IntegrityError, UnsupportedModelError

# TensorProto.DataType in our words.
DTYPES: Final[Mapping[int, str]] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
# The versions of the standard operators in which what ``torch_ops`` does is what they say.
_OPSETS: Final = range(17, 21)
# TensorProto fields that hold values of one width, packed.
_FLOAT_DATA: Final = 4
_INT32_DATA: Final = 5
_INT64_DATA: Final = 7
_RAW_DATA: Final = 9
_EXTERNAL: Final = 1


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor of the graph. ``file`` is where its bytes begin at ``offset``; None means that ``data`` has them."""

    dtype: str
    dims: tuple[int, ...]
    data: memoryview | bytes = b""
    file: Path | None = None
    offset: int = 0


Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Constant


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. An input that is left out has an empty name; ``operator`` has its domain before a colon."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph in the order in which it runs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]


def read_file(path: Path) -> Graph:
    """Read a skeleton; its external tensors are placed, not read.

    Raises:
        UnsupportedModelError: it is no ONNX file, or holds what is never run.
        IncompleteModelError: it, or a file that it names, is missing or too short.
    """
    try:
        with path.open("rb") as file:
            # Constants that stand in the file are views of the mapping, which lives as long as they do.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise IncompleteModelError(f"there is no model {path}") from error
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(f"{path} cannot be read: {error}") from error
    return read(data, str(path), path.parent)


def read(data: memoryview, name: str, folder: Path) -> Graph:
    """Read a model from memory; ``folder`` is where its external tensors are. Errors are those of ``read_file``."""
    try:
        outside = external_tensors(name, len(data), lambda offset, length: bytes(data[offset : offset + length]))
        placed = {tensor.name: (folder / location, tensor) for location, row in outside.items() for tensor in row}
        model = _Model(data)
        for domain, version in model.opsets:
            if not domain and version not in _OPSETS:
                raise UnsupportedModelError(
                    f"{name} is of operator set {version}; torch runs {_OPSETS[0]} to {_OPSETS[-1]} of them",
                    hint="take another backend",
                )
        return _graph(model.graph, name, placed)
    except IntegrityError as error:
        raise UnsupportedModelError(f"{name} is no graph that torch runs: {error.message}") from error
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise UnsupportedModelError(f"{name} is no graph that torch runs: {error}") from error


class _Model:
    """The parts of a ModelProto that matter."""

    def __init__(self, data: memoryview) -> None:
        self.graph = NOTHING
        self.opsets: list[tuple[str, int]] = []
        for number, _, value in fields(data):
            if number == 7:
                self.graph = block(value)
            elif number == 8:
                entry = dict(plain(block(value)))
                self.opsets.append((text(entry.get(1, NOTHING)), integer(entry.get(2, 0))))
            elif number == 25:
                raise ValueError("it has functions of its own")


def _graph(data: memoryview, name: str, placed: Mapping[str, tuple[Path, ExternalTensor]]) -> Graph:
    nodes: list[Node] = []
    constants: dict[str, Constant] = {}
    borders: dict[int, list[Tensor]] = {11: [], 12: []}
    values: dict[int, list[memoryview]] = {11: [], 12: []}
    for number, _, value in fields(data):
        if number == 1:
            nodes.append(_node(block(value), placed))
        elif number == 5:
            key, constant = _constant(block(value), placed)
            constants[key] = constant
        elif number in values:
            values[number].append(block(value))
        elif number == 15:
            raise ValueError("it has sparse tensors")
    for number, row in values.items():
        borders[number] = [tensor for tensor in map(_border, row) if tensor.name not in constants]
    for constant in constants.values():
        _check_there(constant, name)
    return Graph(tuple(borders[11]), tuple(borders[12]), tuple(nodes), constants)


def _node(data: memoryview, placed: Mapping[str, tuple[Path, ExternalTensor]]) -> Node:
    inputs, outputs, attributes = list[str](), list[str](), dict[str, Attribute]()
    operator = domain = ""
    for number, _, value in fields(data):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number == 4:
            operator = text(value)
        elif number == 5:
            key, attribute = _attribute(block(value), placed)
            attributes[key] = attribute
        elif number == 7:
            domain = text(value)
    full = f"{domain}:{operator}" if domain not in {"", "ai.onnx"} else operator
    return Node(full, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview, placed: Mapping[str, tuple[Path, ExternalTensor]]) -> tuple[str, Attribute]:
    """Name and value of an AttributeProto. Lists may be packed or not."""
    key, kind = "", 0
    found: dict[int, list[memoryview | int]] = {}
    for number, wire, value in fields(data):
        if number == 1:
            key = text(value)
        elif number == 20:
            kind = integer(value)
        elif number in {7, 8} and wire == BYTES:
            found.setdefault(number, []).extend(_packed(number, block(value)))
        else:
            found.setdefault(number, []).append(value)
    # AttributeProto.AttributeType: FLOAT, INT, STRING, TENSOR, FLOATS, INTS, STRINGS.
    field = {1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8, 8: 9}.get(kind)
    if field is None:
        raise ValueError(f"attribute {key} holds a graph")
    row = found.get(field, [])
    if kind == 4:
        return key, _constant(block(row[0]), placed)[1]
    if kind in {1, 6}:
        floats = tuple(float(struct.unpack("<f", block(value))[0]) for value in row)
        return key, floats if kind == 6 else (floats or (0.0,))[0]
    if kind in {2, 7}:
        ints = tuple(signed(integer(value)) for value in row)
        return key, ints if kind == 7 else (ints or (0,))[0]
    texts = tuple(text(value) for value in row)
    return key, texts if kind == 8 else (texts or ("",))[0]


def _packed(number: int, data: memoryview) -> list[memoryview | int]:
    if number == 7:
        return [data[at : at + 4] for at in range(0, len(data), 4)]
    return list(varints(data))


def _constant(data: memoryview, placed: Mapping[str, tuple[Path, ExternalTensor]]) -> tuple[str, Constant]:
    dims: list[int] = []
    kind = location = 0
    name, raw = "", NOTHING
    wide: dict[int, list[int | memoryview]] = {}
    for number, wire, value in fields(data):
        if number == 1:
            dims += varints(block(value)) if wire == BYTES else [integer(value)]
        elif number == 2:
            kind = integer(value)
        elif number == 8:
            name = text(value)
        elif number == _RAW_DATA:
            raw = block(value)
        elif number == 14:
            location = integer(value)
        elif number in {_FLOAT_DATA, _INT32_DATA, _INT64_DATA}:
            wide.setdefault(number, []).append(value)
    if kind not in DTYPES:
        raise ValueError(f"tensor {name} has the data type {kind}")
    if location == _EXTERNAL:
        file, tensor = placed[name.lstrip("/") or "unnamed"]
        return name, Constant(DTYPES[kind], tuple(dims), file=file, offset=tensor.offset)
    return name, Constant(DTYPES[kind], tuple(dims), data=raw or _unpacked(DTYPES[kind], wide))


def _unpacked(dtype: str, wide: Mapping[int, Sequence[int | memoryview]]) -> bytes:
    """Values that stand in a field of their own type as the little-endian bytes that ``raw_data`` would have."""
    if _FLOAT_DATA in wide:
        return b"".join(bytes(block(value)) for value in wide[_FLOAT_DATA])
    form = {"int64": "<Q", "int32": "<I", "float16": "<H", "bfloat16": "<H"}.get(dtype, "<B")
    mask = (1 << 8 * struct.calcsize(form)) - 1
    row = [
        number
        for field in (_INT32_DATA, _INT64_DATA)
        for value in wide.get(field, [])
        for number in (varints(value) if isinstance(value, memoryview) else [value])
    ]
    return b"".join(struct.pack(form, number & mask) for number in row)


def _check_there(constant: Constant, name: str) -> None:
    if constant.file is not None and not constant.file.is_file():
        raise IncompleteModelError(
            f"{name} cannot be loaded: {constant.file.name} is missing beside it",
            hint="p2psync verify --repair, or pull the version again",
        )


def _border(data: memoryview) -> Tensor:
    """A ValueInfoProto of a tensor."""
    value = dict(plain(data))
    tensor = dict(plain(block(dict(plain(block(value[2])))[1])))
    kind = integer(tensor.get(1, 0))
    if kind not in DTYPES or DTYPES[kind] == "bfloat16":
        raise ValueError(f"tensor {text(value[1])} has the data type {kind}, which cannot cross this boundary")
    dims: list[int | str] = []
    for number, _, dim in fields(block(tensor.get(2, NOTHING))):
        if number == 1:
            said = dict(plain(block(dim)))
            dims.append(integer(said[1]) if 1 in said else text(said.get(2, memoryview(b"?"))) or "?")
    return Tensor(text(value[1]), DTYPES[kind], tuple(dims))
