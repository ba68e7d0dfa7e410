"""Files that p2psync writes are legal safetensors whose large tensors stand on pages."""

import json
import struct

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed (extra compress)")

from p2psync.compress.tensors import Source, write_tensors  # noqa: E402 - After the question whether it can be.
from p2psync.errors import MalformedError  # noqa: E402
from p2psync.limits import PAGE_BYTES  # noqa: E402


def some_tensors():
    draw = np.random.default_rng(1)
    return {
        "odd": draw.standard_normal(3).astype(np.float16),
        "bytes": draw.integers(-127, 127, 5).astype(np.int8),
        "pages.b": draw.standard_normal((32, 64)).astype(np.float16),
        "pages.a": draw.standard_normal((64, 16)).astype(np.float32),
        "wide": draw.standard_normal((3, 5)).astype(np.float32),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_tensors_come_back(tmp_path):
    """The reference library reads every tensor as it was written."""
    reader = pytest.importorskip("safetensors.numpy")
    path, arrays = tmp_path / "w.safetensors", some_tensors()
    write_tensors(str(path), {name: Source.of(array) for name, array in arrays.items()})
    read = reader.load_file(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_whole_pages_stand_on_pages(tmp_path):
    """The header ends on a page, tensors of whole pages come first, and every tensor is aligned to its own type."""
    path, arrays = tmp_path / "w.safetensors", some_tensors()
    places = write_tensors(str(path), {name: Source.of(array) for name, array in arrays.items()})
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % PAGE_BYTES == 0
    for name, array in arrays.items():
        assert places[name].offset == 8 + length + header[name]["data_offsets"][0]
        assert data[places[name].offset :][: array.nbytes] == array.tobytes()
        assert places[name].offset % array.itemsize == 0
    assert places["pages.a"].offset == PAGE_BYTES
    assert places["pages.b"].offset == 2 * PAGE_BYTES


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    """The order of the mapping does not matter."""
    arrays = {name: Source.of(array) for name, array in some_tensors().items()}
    write_tensors(str(tmp_path / "a"), arrays)
    write_tensors(str(tmp_path / "b"), dict(reversed(arrays.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["", "/a", "../a", "a\\b", "a\nb"])
def test_unsound_names_are_refused(name, tmp_path):
    """A name that could leave a directory, or hide what it is, is never written."""
    with pytest.raises(MalformedError):
        write_tensors(str(tmp_path / "w"), {name: Source.of(np.zeros(1, np.float32))})


def test_a_source_that_lies_is_refused(tmp_path):
    """A source must return as many bytes as it declared."""
    with pytest.raises(MalformedError, match="has 4 bytes where 8 were declared"):
        write_tensors(str(tmp_path / "w"), {"x": Source("F32", (2,), lambda: np.zeros(1, np.float32))})


def test_unknown_types_are_refused():
    """An array that safetensors has no type for is refused where it enters."""
    with pytest.raises(MalformedError, match="complex64"):
        Source.of(np.zeros(1, np.complex64))
