"""Paths that could leave their directory, or that two systems read differently: every one ends in UnsafePathError."""

import pytest

from p2psync.errors import UnsafePathError
from p2psync.manifest import check_path, check_paths

ATTACKS = {
    "empty": "",
    "parent": "../x",
    "parent inside": "a/../../x",
    "parent at the end": "a/..",
    "parent alone": "..",
    "absolute": "/etc/x",
    "double slash at the start": "//server/share",
    "home": "~/x",
    "home of a user": "~root/x",
    "drive": "C:\\x",
    "drive with a slash": "C:/x",
    "drive without a slash": "c:x",
    "drive inside": "a/C:/x",
    "backslash": "a\\..\\b",
    "empty part": "a//b",
    "slash at the end": "a/",
    "dot": ".",
    "dot inside": "a/./b",
    "dot at the start": "./a",
    "NUL": "a\0.txt",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "delete": "a\x7f",
    "C1 control": "a\x85",
    "line separator": "a\u2028b",
    "right-to-left override": "a\u202egnp.exe",
    "isolate": "a\u2066b",
    "half a surrogate pair": "a\ud800",
    "not in form C": "u\u0308.txt",
    "compatibility form that is not in form C": "\u212b.txt",
    "trailing dot": "a./b",
    "trailing space": "a /b",
    "dots alone": "a/...",
    "space alone": "a/ /b",
    "device": "CON",
    "device in lower case": "a/nul/b",
    "device with a suffix": "aux.txt",
    "device with two suffixes": "prn.tar.gz",
    "device with a space": "com1 .txt",
    "printer": "lpt9",
    "device with a superscript": "COM\u00b9.txt",
    "console": "conin$",
    "part of 256 bytes": "a" * 256,
    "part of 86 letters, 258 bytes": "日" * 86,
    "path of 1,025 bytes": "/".join(["a" * 40] * 25) + "b",
    "33 parts": "/".join("a" * 33),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_path(attack):
    """The path is refused, alone and among others."""
    with pytest.raises(UnsafePathError):
        check_path(ATTACKS[attack])
    with pytest.raises(UnsafePathError):
        check_paths(["config.json", ATTACKS[attack]])


SETS = {
    "the same twice": ("a", "a"),
    "letter case": ("model.bin", "Model.BIN"),
    "letter case in a directory": ("A/x", "a/x"),
    "sharp s": ("straße", "STRASSE"),
    "final sigma": ("σ", "ς"),
    "Kelvin sign": ("k", "\u212a"),
    "dotted capital I in two forms": ("\u0130", "i\u0307"),
    "accents": ("É.txt", "é.txt"),
    "ypogegrammeni, folded before composed": ("\u1fb3", "\u03b1\u03b9"),
    "a file and a directory": ("a", "a/b"),
    "a file and a directory, deep": ("a/b/c/d", "a/b"),
    "a file and a directory by letter case": ("A", "a/b"),
    "a file and a directory, others between": ("a", "a-b", "a.b", "a/b"),
}


@pytest.mark.parametrize("attack", SETS)
def test_paths_that_are_one(attack):
    """Paths that some system takes for one, or for a file and its own directory, are refused in either order."""
    with pytest.raises(UnsafePathError):
        check_paths(SETS[attack])
    with pytest.raises(UnsafePathError):
        check_paths(reversed(SETS[attack]))
