import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import MalformedError, UnsafePathError
from p2psync.manifest import check_path, check_paths, check_tensor_name

GOOD = [
    "config.json",
    "transformer/diffusion_pytorch_model-00001-of-00012.safetensors",
    "with space/and (brackets) [x], 100%.txt",
    "日本/ünïcode.bin",
    ".hidden/.gitattributes",
    "a~b/~c",
    "console/nullable/com10/lpt.x",
    "a" * 255,
    "/".join(["d"] * 32),
    "👩‍🚀.txt",
    "..a/b..c",
]


@pytest.mark.parametrize("path", GOOD)
def test_honest_paths_are_accepted(path):
    """Paths of real models, with spaces, other scripts and dots, are accepted."""
    check_path(path)
    check_paths([path, "another"])


@given(st.text(max_size=40))
def test_what_is_accepted_stays_below_its_directory(path):
    """An accepted path has only plain parts, no matter what was tried."""
    try:
        check_path(path)
    except UnsafePathError:
        return
    assert path
    assert all(part not in {"", ".", ".."} for part in path.split("/"))
    assert unicodedata.normalize("NFC", path) == path
    assert "\\" not in path
    assert "\0" not in path


def test_paths_that_differ_are_accepted_together():
    """Files may share directories and beginnings of names."""
    check_paths(["a/b", "a/bc", "a.b", "ab/a", "a/b.d/c"])


def test_paths_may_be_any_iterable():
    """The paths are looked at once."""
    check_paths(f"{i}/x" for i in range(1000))


@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.weight", "a/b/c", "Ünï", "x" * 1024, "..a", "a b"])
def test_honest_tensor_names_are_accepted(name):
    """Names with dots, slashes, spaces and other scripts are accepted."""
    check_tensor_name(name)


@pytest.mark.parametrize("name", ["", "/x", "a/../b", "..", "a\\b", "a\0", "a\nb", "\ud800", "x" * 1025, "\u202egpj"])
def test_tensor_names_that_lead_out_are_refused(name):
    """Names that a loader could turn into a path out, or that hide what they are, are refused."""
    with pytest.raises(MalformedError, match="tensor name"):
        check_tensor_name(name)
