from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from p2psync.content import ExternalTensor, external_tensors
from p2psync.content.tensors import DTYPE_BITS
from p2psync.errors import MalformedError, UnsafePathError
from p2psync.limits import ONNX_DEPTH_MAX, READ_AHEAD_BYTES


def read(file, name="model.onnx"):
    return external_tensors(name, len(file), lambda offset, length: file[offset : offset + length])


def outside(name="w", shape=(2, 3), data_type=TensorProto.FLOAT, /, **keys):
    """A TensorProto whose bytes are elsewhere. Keys default to a location of ``w.bin``."""
    tensor = TensorProto(name=name, dims=shape, data_type=data_type, data_location=TensorProto.EXTERNAL)
    for key, text in ({"location": "w.bin"} | keys).items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def inside(name="i"):
    return helper.make_tensor(name, TensorProto.FLOAT, [4], np.arange(4, dtype=np.float32))


def model(*initializers, nodes=(), **more):
    graph = helper.make_graph(nodes, "g", [], [], initializer=initializers)
    return helper.make_model(graph, **more)


def file(*initializers, **more):
    return model(*initializers, **more).SerializeToString()


def field(number, content):
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def in_graph(tensor):
    """A model whose one initialiser is these bytes. The tensor starts at byte 2 + 2 for short ones."""
    return field(7, field(5, tensor))


def test_a_model_that_keeps_its_weights_has_none_outside():
    """Embedded weights are no external tensors, whatever other keys they carry."""
    half = inside("half")
    half.external_data.add(key="location", value="elsewhere")
    assert read(file(inside(), half)) == {}


def test_what_the_onnx_package_moves_out_is_found(tmp_path):
    """A model saved with external data by the onnx package is read to the same names, places and bytes."""
    arrays = {
        "a": np.arange(3000, dtype=np.float32).reshape(30, 100),
        "b": np.arange(999, dtype=np.int64),
        "c": np.ones((7, 5, 3), np.float16),
        "d": np.array(3.0),
    }
    source = model(*(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()))
    path = tmp_path / "m.onnx"
    onnx.save_model(source, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = read(path.read_bytes())
    data = (tmp_path / "w.bin").read_bytes()
    assert list(found) == ["w.bin"]
    assert {t.name: data[t.offset : t.offset + t.length] for t in found["w.bin"]} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    assert [(t.dtype, t.shape) for t in found["w.bin"]] == [
        ("F32", (30, 100)),
        ("I64", (999,)),
        ("F16", (7, 5, 3)),
        ("F64", ()),
    ]


def test_every_place_a_tensor_can_stand_is_entered():
    """Initialisers, sparse ones, attributes, subgraphs inside subgraphs, functions and training graphs count."""
    innermost = helper.make_graph([], "innermost", [], [], initializer=[outside("in a graph in a graph")])
    between = helper.make_graph([helper.make_node("If", ["x"], [], then_branch=innermost)], "between", [], [])
    sparse = helper.make_sparse_tensor(outside("values", (1,)), outside("indices", (1,), TensorProto.INT64), [9])
    attribute_sparse = helper.make_sparse_tensor(
        outside("attribute values", (1,)), outside("attribute indices", (1,), TensorProto.INT64), [9]
    )
    nodes = [
        helper.make_node("Loop", ["x"], [], body=between),
        helper.make_node("Constant", [], ["y"], value=outside("attribute")),
        helper.make_node("Custom", [], ["z"], values=[outside("list 1"), outside("list 2")]),
        helper.make_node("Custom", [], ["v"], graphs=[innermost]),
        helper.make_node("Constant", [], ["s"], sparse_value=attribute_sparse),
        helper.make_node("Custom", [], ["t"], sparse_values=[attribute_sparse]),
    ]
    function = helper.make_function(
        "d", "f", [], [], [helper.make_node("Constant", [], ["y"], value=outside("in a function"))],
        [helper.make_opsetid("", 20)], attribute_protos=[helper.make_attribute("default", outside("default"))],
    )  # fmt: skip
    whole = model(outside("initialiser"), nodes=nodes, functions=[function])
    whole.graph.sparse_initializer.append(sparse)
    training = whole.training_info.add()
    training.initialization.CopyFrom(helper.make_graph([], "i", [], [], initializer=[outside("initialisation")]))
    training.algorithm.CopyFrom(helper.make_graph([], "a", [], [], initializer=[outside("algorithm")]))
    names = [tensor.name for tensor in read(whole.SerializeToString())["w.bin"]]
    assert sorted(names) == sorted(
        [
            *("initialiser", "values", "indices", "attribute", "list 1", "list 2", "in a function", "default"),
            *("in a graph in a graph", "in a graph in a graph", "initialisation", "algorithm"),
            *("attribute values", "attribute values", "attribute indices", "attribute indices"),
        ]
    )


def test_places_may_be_left_out():
    """A missing offset is 0, a missing or zero length follows from the shape, and other keys mean nothing here."""
    tensors = [
        outside("all", length="24", offset="4096", checksum="x" * 5000, other="1"),
        outside("none"),
        outside("zero", length="0"),
    ]
    assert read(file(*tensors)) == {
        "w.bin": [
            ExternalTensor("all", "F32", (2, 3), 4096, 24),
            ExternalTensor("none", "F32", (2, 3), 0, 24),
            ExternalTensor("zero", "F32", (2, 3), 0, 24),
        ]
    }


def test_tensors_are_listed_by_location():
    """Each location has its own list, spelt without dot parts, which mean nothing."""
    found = read(file(outside("a"), outside("b", location="./dir//w.bin"), outside("c", location="./w.bin")))
    assert {location: [t.name for t in tensors] for location, tensors in found.items()} == {
        "w.bin": ["a", "c"],
        "dir/w.bin": ["b"],
    }


def test_names_that_exporters_write_become_sound():
    """A leading slash is dropped, and a tensor without a name is called unnamed."""
    names = [t.name for t in read(file(outside("/model/Constant_output_0"), outside("")))["w.bin"]]
    assert names == ["model/Constant_output_0", "unnamed"]


@pytest.mark.parametrize("data_type", [v for k, v in TensorProto.DataType.items() if k not in {"UNDEFINED", "STRING"}])
def test_every_data_type_has_the_length_that_the_onnx_package_writes(data_type):
    """Five elements of each type, those under a byte too, take as many bytes as the onnx package gives them."""
    array = np.zeros(5, helper.tensor_dtype_to_np_dtype(data_type))
    written = onnx.numpy_helper.from_array(array)
    assert written.data_type == data_type
    (tensor,) = read(file(outside("w", (5,), data_type)))["w.bin"]
    assert tensor.length == len(written.raw_data)
    if tensor.dtype in DTYPE_BITS:
        assert tensor.length == -(-5 * DTYPE_BITS[tensor.dtype] // 8)


def test_weights_are_passed_over():
    """A gigabyte of embedded weights costs a few reads of headers, wherever it stands."""
    big = 1 << 30
    weights = field(1, b"") + varint(9 << 3 | 2) + varint(big)
    tensor = varint(5 << 3 | 2) + varint(len(weights) + big) + weights
    after = field(5, outside().SerializeToString())
    start = varint(7 << 3 | 2) + varint(len(tensor) + big + len(after)) + tensor
    parts = (start, bytes(big), after)
    reads = []

    def read_at(offset, length):
        reads.append(length)
        found = b""
        for part in parts:
            found += part[max(offset, 0) : max(offset + length, 0)]
            offset -= len(part)
        return found

    assert len(external_tensors("m.onnx", sum(map(len, parts)), read_at)["w.bin"]) == 1
    assert sum(reads) <= 3 * READ_AHEAD_BYTES


def test_packed_dimensions_are_not_read_where_there_are_too_many():
    """A field that must hold too many numbers is refused by its length: a file may declare gigabytes of them."""
    packed = field(7, field(5, field(1, b"\x01" * (1 << 18))))
    reads = []

    def read_at(offset, length):
        reads.append(length)
        return packed[offset : offset + length]

    with pytest.raises(MalformedError, match="more than 64 dimensions"):
        external_tensors("m.onnx", len(packed), read_at)
    assert sum(reads) <= 3 * READ_AHEAD_BYTES


UNKNOWN = 99
REFUSED = {
    "nothing": (b"", None, "has no graph"),
    "no graph": (field(2, b"producer"), None, "has no graph"),
    "text": (b"This is no model.\n", 0, "wire type 4"),
    "truncated": (file(outside())[:-1], None, "longer than what it stands in"),
    "field over its message": (b"\x3a\x02\x2a\x05", 4, "longer than what it stands in"),
    "length of 2^63": (b"\x3a" + varint(1 << 63), 11, "longer than what it stands in"),
    "fixed field over the end": (b"\x09\x00", 1, "longer than what it stands in"),
    "number without an end": (b"\x08" + b"\x80" * 30, 1, "does not end or overflows"),
    "number of 65 bits": (b"\x08" + varint(1 << 64), 1, "does not end or overflows"),
    "number over the end": (b"\x08\x80", 1, "does not end or overflows"),
    "tag without an end": (b"\xff" * 11, 0, "does not end or overflows"),
    "tag over its message": (b"\x3a\x01\x80\x01", 2, "does not end or overflows"),
    "field number 0": (b"\x02\x00", 0, "number is impossible"),
    "field number over 2^29": (varint((1 << 32) | 2) + b"\0", 0, "number is impossible"),
    "group": (b"\x0b", 0, "wire type 3"),
    "end of a group": (b"\x0c", 0, "wire type 4"),
    "wire type 6": (b"v", 0, "wire type 6"),
    "graph as a number": (b"\x38\x01", 1, "wire type 0 where 2 is due"),
    "tensor as a number": (field(7, b"\x28\x01"), 3, "wire type 0 where 2 is due"),
    "dims as a double": (in_graph(b"\x09" + bytes(8)), 5, "wire type 1 where 2 is due"),
    "data type as bytes": (in_graph(b"\x12\x00"), 6, "wire type 2 where 0 is due"),
    "name as a number": (in_graph(b"\x40\x00"), 5, "wire type 0 where 2 is due"),
    "location as bytes": (in_graph(b"\x72\x00"), 6, "wire type 2 where 0 is due"),
    "external data as a number": (in_graph(b"\x68\x00"), 5, "wire type 0 where 2 is due"),
    "65 dimensions": (in_graph(b"\x08\x01" * 65), None, "more than 64 dimensions"),
    "65 packed dimensions": (in_graph(field(1, b"\x01" * 65)), None, "more than 64 dimensions"),
    "packed dimensions without end": (in_graph(field(1, b"\x01" * 1000)), None, "more than 64 dimensions"),
    "half a packed dimension": (in_graph(field(1, b"\x80")), 6, "does not end or overflows"),
    "negative dimension": (file(outside("w", (-1,))), None, "negative or overflows"),
    "shape overflows": (file(outside("w", (1 << 32, 1 << 32))), None, "negative or overflows"),
    "unknown data type": (file(outside("w", (1,), UNKNOWN)), None, "unknown data type 99"),
    "no data type": (file(outside("w", (1,), TensorProto.UNDEFINED)), None, "unknown data type 0"),
    "strings": (file(outside("w", (1,), TensorProto.STRING)), None, "unknown data type 8"),
    "length and shape differ": (file(outside(length="25")), None, "24 bytes of F32 and 25 bytes of room"),
    "negative offset": (file(outside(offset="-1")), None, "external data number '-1'"),
    "signed offset": (file(outside(offset="+1")), None, "external data number '+1'"),
    "offset in hexadecimal": (file(outside(offset="0x10")), None, "external data number '0x10'"),
    "offset of nothing": (file(outside(offset="")), None, "external data number ''"),
    "offset of 2^63": (file(outside(offset=str(1 << 63))), None, "external data number"),
    "name like a path": (file(outside("a/../b")), None, "contains a .. part"),
    "name not Unicode": (in_graph(outside("?").SerializeToString().replace(b"?", b"\xff")), None, "not Unicode"),
    "name too long": (file(outside("n" * 1025)), None, "tensor name of 1025 bytes"),
    "location too long": (file(outside(location="n" * 1025)), None, "location of 1025 bytes"),
    "location twice": (
        in_graph(outside().SerializeToString() + field(13, field(1, b"location") + field(2, b"x"))), None,
        "two values of location"),
    "too many keys": (in_graph(field(13, b"") * 65), None, "more than 64 external data keys"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", None, "Git LFS pointer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_at_its_byte(case):
    """Whatever is no ONNX model, or places a tensor wrongly, is refused by the file's name and byte."""
    broken, offset, message = REFUSED[case]
    with pytest.raises(MalformedError, match=re.escape(message)) as refusal:
        read(broken)
    assert str(refusal.value).startswith("model.onnx ")
    assert offset is None or refusal.value.offset == offset


@pytest.mark.parametrize(
    "location", ["", ".", "./", "/etc/x", "../x", "a/../../x", "a/..", "C:/x", "C:x", "a\\b", "a\0b", "a\nb", "*/../x"]
)
def test_a_location_outside_the_directory_is_refused(location):
    """Weights are never looked for outside the directory of their skeleton."""
    with pytest.raises(UnsafePathError, match="no path inside its directory"):
        read(file(outside(location=location)))


def nested(depth):
    """A model with messages inside messages: a graph, a node, an attribute, a graph, and so on."""
    content = b""
    for level in reversed(range(depth)):
        content = field((7, 1, 5, 6)[level and (level - 1) % 3 + 1], content)
    return content


def test_depth_is_bounded():
    """Subgraphs nest as deep as the protobuf libraries follow them, and no deeper, at any depth offered."""
    assert read(nested(ONNX_DEPTH_MAX - 1)) == {}
    for depth in (ONNX_DEPTH_MAX, 2_000):
        with pytest.raises(MalformedError, match="nests messages deeper than 100"):
            read(nested(depth))


def test_the_number_of_external_tensors_is_bounded(monkeypatch):
    """A skeleton names at most so many tensors in other files."""
    monkeypatch.setattr("p2psync.content.onnx.TENSORS_PER_FILE_MAX", 10)
    one = field(5, outside("w", (1,)).SerializeToString())
    assert len(read(field(7, one * 10))["w.bin"]) == 10
    with pytest.raises(MalformedError, match="more than 10 external tensors"):
        read(field(7, one * 11))


def test_the_number_of_fields_is_bounded(monkeypatch):
    """A file of nothing but tiny fields is given up."""
    monkeypatch.setattr("p2psync.content.onnx.ONNX_FIELDS_MAX", 1000)
    assert read(field(7, b"") + b"\x08\x01" * 999) == {}
    with pytest.raises(MalformedError, match="more than 1000 fields"):
        read(field(7, b"") + b"\x08\x01" * 1000)


PLACES = st.lists(
    st.tuples(
        st.text("abc/", min_size=1, max_size=6),
        st.lists(st.integers(0, 5), max_size=4),
        st.sampled_from([TensorProto.FLOAT, TensorProto.INT8, TensorProto.BFLOAT16, TensorProto.INT4]),
        st.sampled_from(["w.bin", "x/y.bin"]),
        st.none() | st.integers(0, 1 << 40),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(PLACES, st.integers(0, 3))
def test_what_is_written_is_read(places, extra):
    """Any list of external tensors comes back as it was written, whatever stands between them."""
    written = []
    for name, shape, data_type, location, offset in places:
        keys = {"location": location} | ({} if offset is None else {"offset": str(offset)})
        written.append(outside(name, shape, data_type, **keys))
    initializers = [t for pair in zip(written, [inside()] * len(written), strict=True) for t in pair[: 1 + extra % 2]]
    found = read(file(*initializers))
    for location in ("w.bin", "x/y.bin"):
        assert [(t.name, list(t.shape), t.offset) for t in found.get(location, [])] == [
            (name.lstrip("/") or "unnamed", shape, offset or 0)
            for name, shape, _, at, offset in places
            if at == location
        ]


SOUND = file(
    outside("a", length="24", offset="0"),
    inside(),
    outside("b", (4,), TensorProto.INT8),
    nodes=[helper.make_node("If", ["x"], [], then_branch=helper.make_graph([], "t", [], [], [outside("c")]))],
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_is_refused_or_read(data):
    """Any damage to a file ends in a result or in one of two named errors."""
    damaged = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        found = read(bytes(damaged))
    except (MalformedError, UnsafePathError):
        return
    assert all(t.offset >= 0 and t.length >= 0 and t.name for tensors in found.values() for t in tensors)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data):
    """Any bytes at all end in a result or in one of two named errors."""
    try:
        found = read(data)
    except (MalformedError, UnsafePathError):
        return
    assert all(tensors for tensors in found.values())
