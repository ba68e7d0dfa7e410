"""A line becomes one verb and its options; a wrong one is told in our words, with the nearest right one."""

import itertools

import pytest

from p2psync.cli.parser import parse, wants_json
from p2psync.cli.verbs import FAMILIES, GLOBAL_FLAGS, VERBS
from p2psync.errors import UsageError

REF = "acme/m:v1"


def options(*words, **environ):
    """The options of a line."""
    return parse(words, environ).options


def refused(*words, **environ):
    """The error of a line that is refused."""
    with pytest.raises(UsageError) as caught:
        parse(words, environ)
    return caught.value


def test_flags_of_all_verbs_stand_anywhere():
    """Global flags mean the same before the verb, after it, after its operands, and in any mixture."""
    words = ["pull", REF, "--json", "--home=/h", "-q"]
    expected = options(*words)
    assert expected["json"]
    assert expected["quiet"]
    assert expected["home"] == "/h"
    for order in itertools.permutations(["--json", "--home=/h", "-q"]):
        for place in range(3):
            line = [*order[:place], "pull", *order[place:], REF]
            assert options(*line) == expected


def test_families_take_flags_between_their_words():
    """A flag may stand between the two words of a verb."""
    invocation = parse(["key", "--json", "new", "release"], {})
    assert invocation.verb is VERBS["key new"]
    assert invocation.options["name"] == "release"
    assert invocation.options["json"]


def test_defaults():
    """What is not said is None, False or empty, and the home is ~/.p2psync."""
    found = options("pull", REF)
    assert found["home"].endswith("/.p2psync")
    assert found["from"] == found["peer"] == []
    assert found["to"] is None
    assert not any(found[name] for name in ("json", "quiet", "offline", "watch", "dry_run", "link"))


def test_repeated_and_last():
    """A flag that may be repeated adds up; of the others the last counts."""
    found = options("pull", REF, "--from", "http://a", "--to", "/x", "--from", "http://b", "--to", "/y")
    assert found["from"] == ["http://a", "http://b"]
    assert found["to"] == "/y"


def test_every_flag_has_a_variable():
    """Each flag of each verb can be set by its variable, and the line outranks it."""
    values = {"AGE": "30d", "RATE": "2M", "HOST:PORT": "127.0.0.1:1", "URL": "http://a:1 http://b:2", "DIR": "/d"}
    values |= {"N": "8", "G": "1.5", "HxW": "64x96", "WHO": "open", "SHARE": "1e-4", "COUNT": "2"}
    for verb in VERBS.values():
        operands = [operand.choices[0] if operand.choices else "acme/m" for operand in verb.operands]
        needed = [word for flag in verb.flags if flag.required for word in (flag.name, "x")]
        for flag in (*verb.flags, *GLOBAL_FLAGS):
            text = values.get(flag.metavar, "x") if flag.metavar else "1"
            words = [w for w in needed if not (flag.required and w in (flag.name, "x"))]
            found = options(*verb.name.split(), *operands, *words, **{flag.variable: text})
            assert found[flag.dest] == (
                [flag.parse(t) for t in text.split()] if flag.many else flag.parse(text) if flag.metavar else True
            ), flag.name


def test_line_outranks_environment():
    """A flag on the line is taken, its variable is not even looked at; an empty variable is none."""
    assert options("pull", REF, "--from", "http://a", P2PSYNC_FROM="nonsense")["from"] == ["http://a"]
    assert options("pull", REF, P2PSYNC_TO="")["to"] is None
    assert options("publish", ".", REF, P2PSYNC_KEY="k")["key"] == "k"


def test_wrong_values_name_where_they_stand():
    """A wrong value names its flag, or its variable."""
    assert refused("publish", ".", REF, "--key", "k", "--expires", "soon").message.startswith("--expires: ")
    assert refused("pull", REF, P2PSYNC_PEER="x").message.startswith("P2PSYNC_PEER: ")
    assert refused("ls", P2PSYNC_QUIET="maybe").message.startswith("P2PSYNC_QUIET: ")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("pul", REF), "there is no verb 'pul'", "did you mean p2psync pull?"),
        (("xyzzy",), "there is no verb 'xyzzy'", "p2psync --help"),
        (("fleet",), "there is no verb 'fleet'", "p2psync --help"),
        ((), "there is no verb on the line", "p2psync --help"),
        (("--json",), "there is no verb on the line", "p2psync --help"),
        (("key",), "key needs a verb: new, ls, export", "p2psync key --help"),
        (("key", "nwe", "x"), "there is no verb 'key nwe'", "did you mean p2psync key new?"),
        (("pull", REF, "--form", "x"), "pull has no flag --form", "did you mean --from?"),
        (("pull", REF, "--form=x"), "pull has no flag --form", "did you mean --from?"),
        (("pull", REF, "-x"), "pull has no flag -x", "p2psync pull --help"),
        (("ls", "-n"), "ls has no flag -n", "p2psync ls --help"),
        (("pull", REF, "--dry"), "pull has no flag --dry", "did you mean --dry-run?"),
        (("--hme", "x", "ls"), "there is no flag --hme", "did you mean --home?"),
        (("--from", "x", "pull"), "--from stands before the verb, and belongs to one", "p2psync VERB --from ..."),
        (("pull",), "pull needs REF", "p2psync pull --help"),
        (("diff",), "diff needs A and B", "p2psync diff --help"),
        (("pull", REF, "more"), "pull takes no argument 'more'", "p2psync pull --help"),
        (("pull", REF, "--to"), "--to needs a value", "p2psync pull --help"),
        (("pull", REF, "--to", "--json"), "--to needs a value", "p2psync pull --help"),
        (("ls", "--json=1"), "--json takes no value", "p2psync ls --help"),
        (("ls", "--home"), "--home needs a value", "p2psync ls --help"),
        (("publish", ".", REF), "publish needs --key NAME", "p2psync publish --help"),
        (("completion", "ksh"), "SHELL is one of bash, zsh, fish, tcsh, not 'ksh'", "p2psync completion --help"),
        (
            ("trust", "add", "acme/a", "acme/b", "ed25519:x"),
            "trust add takes no argument 'ed25519:x'",
            "quote the star, or the shell replaces it: 'acme/*'",
        ),
    ],
)
def test_refusals(words, message, hint):
    """What is wrong is named, and the nearest or the help is the hint."""
    error = refused(*words)
    assert (error.message, error.hint) == (message, hint)


def test_flags_are_not_abbreviated():
    """A prefix of a flag is another, unknown flag: a script must not break when a flag is added."""
    assert "--verb" in refused("ls", "--verb").message


def test_everything_after_two_dashes_is_an_operand():
    """After -- a word that begins with a dash is an operand."""
    assert options("key", "new", "--", "--json")["name"] == "--json"


def test_clusters_of_short_flags():
    """Short switches may be written together."""
    found = options("pull", REF, "-qvn")
    assert found["quiet"]
    assert found["verbose"]
    assert found["dry_run"]
    assert options("-qv", "ls")["quiet"]


@pytest.mark.parametrize("flag", ["-h", "--help", "-qh"])
def test_help_needs_nothing_else(flag):
    """Help is given wherever it is asked for, whatever else is missing."""
    assert parse([flag], {}).text.startswith("usage: p2psync VERB")
    assert parse(["publish", flag], {}).text.startswith("usage: p2psync publish DIR")
    assert parse([flag, "publish"], {}).text.startswith("usage: p2psync publish DIR")
    for family in FAMILIES:
        assert parse([family, flag], {}).text.startswith(f"usage: p2psync {family} VERB")
    assert "no verb" in refused("nonsense", flag).message


def test_version():
    """--version says the version, anywhere on the line."""
    import p2psync

    for words in (["--version"], ["pull", "--version"], ["--json", "--version"]):
        assert parse(words, {}).text == f"p2psync {p2psync.__version__}"


def test_json_is_noticed_on_any_line():
    """Whether errors are to be JSON is seen even on a line that cannot be read, but not among operands."""
    assert wants_json(["nonsense", "--json"], {})
    assert wants_json(["ls"], {"P2PSYNC_JSON": "1"})
    assert not wants_json(["key", "new", "--", "--json"], {})
    assert not wants_json(["ls"], {"P2PSYNC_JSON": "maybe"})
