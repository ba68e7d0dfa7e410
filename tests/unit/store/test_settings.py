"""p2psync.toml: variants, and errors that name what is wrong."""

import pytest

from p2psync.errors import InvalidConfigError
from p2psync.store.settings import choose_files, parse_settings

PATHS = ["README.md", "a[1].bin", "fp16/model.bin", "int8/deep/probe.json", "int8/model.bin", "tokenizer/t.json"]


def chosen(text):
    """Variants of a settings file over PATHS."""
    return choose_files(parse_settings(text.encode()), PATHS)


def test_variants_name_their_files():
    """Globs choose files, needs and probe are kept, and order does not matter."""
    (int8, fp16) = chosen(
        """
        [variants.int8]
        files = ["int8/**", "tokenizer/**"]
        needs = {backend = "ort-cpu", precision = "int8", memory_bytes = 900000000}
        probe = "int8/deep/probe.json"
        default = true
        [variants.fp16]
        files = ["fp16/*"]
        """
    )
    assert (int8.name, int8.files, int8.default, int8.backend) == ("int8", (3, 4, 5), True, "ort-cpu")
    assert (int8.precision, int8.memory_bytes, int8.probe) == ("int8", 900_000_000, "int8/deep/probe.json")
    assert (fp16.files, fp16.default, fp16.memory_bytes) == ((2,), False, 0)


@pytest.mark.parametrize(
    ("glob", "files"),
    [
        ("*", (0, 1)),
        ("**", (0, 1, 2, 3, 4, 5)),
        ("int8/*", (4,)),
        ("int8/**", (3, 4)),
        ("**/*.bin", (1, 2, 4)),
        ("a[1].bin", (1,)),
        ("?nt8/model.bin", (4,)),
        ("*/model.bin", (2, 4)),
        ("**/probe.json", (3,)),
    ],
)
def test_globs(glob, files):
    """A star stays inside one part of a path, two stars do not, and brackets are themselves."""
    assert chosen(f'[variants.v]\nfiles = ["{glob}"]')[0].files == files


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[variant.x]\nfiles=['*']", "unknown key variant", "did you mean variants?"),
        ("[variants.x]\nfile=['*']", "unknown key variants.x.file", "did you mean files?"),
        ("[variants.x]\nfiles=['*']\nneeds={memory=1}", "variants.x.needs.memory", "did you mean memory_bytes?"),
        ("[variants.x]\nfiles='*'", "must be a list", None),
        ("[variants.x]\nfiles=[]", "list of globs", None),
        ("[variants.x]\nfiles=[1]", "list of globs", None),
        ("[variants.x]", "list of globs", None),
        ("[variants.x]\nfiles=['nothing*']", "matches no file", None),
        ("[variants.x]\nfiles=['*']\ndefault=1", "must be true or false", None),
        ("[variants.x]\nfiles=['*']\nneeds={memory_bytes=true}", "must be a whole number", None),
        ("[variants.x]\nfiles=['*']\nneeds={memory_bytes=-1}", "count of bytes", None),
        ("[variants.x]\nfiles=['*']\nneeds={backend='a b'}", "is no word", None),
        ("[variants.x]\nfiles=['int8/*']\nprobe='absent.json'", "not among its files", None),
        ("[variants.x]\nfiles=['int8/*']\nprobe='../x'", "not among its files", None),
        ("[variants.x]\nfiles=['fp16/*']\nprobe='int8/model.bin'\n[variants.y]\nfiles=['int8/*']", "not among", None),
        ("[variants.'a/b']\nfiles=['*']", "no name of a variant", None),
        ("variants = 3", "must be a table", None),
        ("variants = {x = 3}", "must be a table", None),
        ("[variants.a]\nfiles=['*']\ndefault=true\n[variants.b]\nfiles=['*']\ndefault=true", "more than one", None),
        ("[[", "p2psync.toml", None),
    ],
)
def test_mistakes_are_named(text, says, hint):
    """Each mistake is an InvalidConfigError that says where it is; an unknown key names the nearest."""
    with pytest.raises(InvalidConfigError, match=says) as caught:
        chosen(text)
    assert caught.value.hint == hint


def test_bytes_that_are_no_text():
    """A settings file that is no UTF-8 is refused."""
    with pytest.raises(InvalidConfigError):
        parse_settings(b"\xff")


def test_probe_in_a_shared_file():
    """A probe may be a file that belongs to every variant."""
    assert chosen("[variants.x]\nfiles=['int8/*']\nprobe='README.md'")[0].probe == "README.md"


def test_too_many_variants():
    """The manifest bounds their number."""
    with pytest.raises(InvalidConfigError, match="at most 64"):
        chosen("\n".join(f"[variants.v{n}]\nfiles=['*']" for n in range(65)))
