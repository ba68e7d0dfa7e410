"""Keys and trust on a real home."""

import re
import stat

import pytest

KEY = re.compile(r"ed25519:[0-9a-f]{64}\n")


def test_new_key_prints_its_public_half(cli, home):
    """``key new`` makes a private file, prints the public key alone, and says how others trust it."""
    made = cli("key", "new", "release")
    assert made.code == 0
    assert KEY.fullmatch(made.out)
    assert f"p2psync trust add 'NAMESPACE/*' {made.out.strip()}" in made.err
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (home / "keys").iterdir()} == {0o600}


def test_export_prints_the_key_and_nothing_else(cli):
    """``key export`` prints one line, in every mode but --json, and nothing on standard error."""
    made = cli("key", "new", "release", "-q")
    assert made.err == ""
    for words in (("key", "export", "release"), ("key", "export", "release", "-q"), ("-v", "key", "export", "release")):
        shown = cli(*words)
        assert (shown.code, shown.out, shown.err) == (0, made.out, "")
    assert cli("key", "export", "release", "--json").json["key"] == made.out.strip()


def test_keys_are_listed(cli):
    """``key ls`` is empty, then lists names and keys, and with -q only names."""
    assert cli("key", "ls").out == ""
    cli("key", "new", "b")
    cli("key", "new", "a")
    assert [line.split()[0] for line in cli("key", "ls").lines] == ["NAME", "a", "b"]
    assert cli("key", "ls", "-q").lines == ["a", "b"]
    assert cli("key", "ls", "--json").json["keys"][0]["id"] == cli("key", "export", "a").out[8:24]


@pytest.mark.parametrize(("name", "code"), [("none", 3), ("NOT A NAME", 2)])
def test_keys_that_are_not_there(cli, name, code):
    """An unknown key exits 3, a name that cannot be one exits 2."""
    shown = cli("key", "export", name)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")


def test_a_key_is_never_replaced(cli):
    """Making a key of a name that is taken exits 2 and leaves the key."""
    made = cli("key", "new", "release")
    assert cli("key", "new", "release").code == 2
    assert cli("key", "export", "release").out == made.out


def test_trust_is_added_listed_and_removed(cli):
    """A binding appears in the list and goes away; removing it again exits 3."""
    key = cli("key", "new", "release").out.strip()
    assert cli("trust", "add", "acme/*", key).out == f"acme/* {key}\n"
    assert cli("trust", "ls").lines == ["PATTERN  KEY", f"acme/*   {key}"]
    assert cli("trust", "ls", "-q").lines == ["acme/*"]
    assert cli("trust", "rm", "acme/*").out == f"acme/* {key}\n"
    assert cli("trust", "ls").out == ""
    gone = cli("trust", "rm", "acme/*")
    assert gone.code == 3
    assert "hint: p2psync trust ls" in gone.err


def test_a_pattern_has_one_owner(cli):
    """A second key for a pattern exits 4 and changes nothing."""
    first, second = (cli("key", "new", name).out.strip() for name in ("a", "b"))
    cli("trust", "add", "acme/*", first)
    refused = cli("trust", "add", "acme/*", second)
    assert refused.code == 4
    assert cli("trust", "ls", "--json").json["trusted"][0]["key"] == first


@pytest.mark.parametrize(
    "words", [("acme/*", "ed25519:xyz"), ("*", "ed25519:" + "0" * 64), ("a*/b", "ed25519:" + "0" * 64)]
)
def test_trust_refuses_what_is_no_key_or_pattern(cli, words):
    """A wrong key or pattern exits 2."""
    assert cli("trust", "add", *words).code == 2
