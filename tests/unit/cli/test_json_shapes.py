"""What programs read from every verb does not change: the page, the frozen shapes and the output agree."""

import pytest

from p2psync.cli.verbs import VERBS
from tests.unit.cli import shapes

KEY = "ed25519:" + "ab" * 32
REF = "acme/m:v1"
LINES = {
    "publish": ("publish", ".", REF, "--key", "k"),
    "pull": ("pull", REF),
    "pull --dry-run": ("pull", REF, "-n"),
    "ls": ("ls",),
    "show": ("show", REF),
    "diff": ("diff", REF, "acme/m:v2"),
    "tag": ("tag", REF, "stable", "--key", "k"),
    "rm": ("rm", REF),
    "prune": ("prune",),
    "status": ("status",),
}


def test_page_says_what_is_frozen():
    """docs/cli.md describes exactly the frozen keys and types, and no others."""
    expected = {name: {path: shapes.in_words(t) for path, t in shapes.frozen(name).items()} for name in shapes.FROZEN}
    assert shapes.documented() == expected


def test_every_verb_has_a_shape():
    """Every verb that answers with an object has its section; the others share one, or print events."""
    shared = {"key export": "key new", "trust rm": "trust add"}
    covered = {shared.get(name, name) for name in VERBS if name != "serve"}
    assert covered == set(shapes.FROZEN) - {"error", "pull --dry-run", "run --plan"}


@pytest.mark.parametrize("name", LINES)
def test_objects_of_the_node_are_printed_as_they_are(cli, node, name):
    """What the node answers is printed whole, on one line, with nothing added; the text forms render it too."""
    answer = shapes.sample(name)
    node.answers[name.split()[0]] = answer
    shown = cli(*LINES[name], "--json")
    assert shown.code == 0
    assert shown.json == answer
    assert shapes.faults(name, shown.json) == []
    assert cli(*LINES[name]).code == 0
    assert cli(*LINES[name], "-q").code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key new", ("key", "new", "a")),
        ("key ls", ("key", "ls")),
        ("key new", ("key", "export", "release")),
        ("trust add", ("trust", "add", "other/*", KEY)),
        ("trust ls", ("trust", "ls")),
        ("trust add", ("trust", "rm", "acme/*")),
        ("completion", ("completion", "bash")),
        ("doctor", ("doctor", "--offline")),
    ],
)
def test_objects_of_the_command_line(cli, name, words):
    """Verbs that need no node answer in their documented shapes."""
    cli("key", "new", "release")
    cli("trust", "add", "acme/*", KEY)
    shown = cli(*words, "--json")
    assert shown.code == 0
    assert shapes.faults(name, shown.json) == []


def test_errors_have_one_shape(cli):
    """An error is one object with a code, a message and a hint."""
    shown = cli("key", "export", "none", "--json")
    assert shown.code == 3
    assert shapes.faults("error", shown.json) == []


def test_verify_with_damage_is_one_object(cli, node):
    """Damage is told in the object of verify itself, with the error beside it, and the exit code is 5."""
    node.answers["verify"] = {**shapes.sample("verify"), "ok": False}
    shown = cli("verify", "--json")
    assert shown.code == 5
    error = shown.json.pop("error")
    assert error["code"] == "damaged"
    assert shapes.faults("verify", {k: v for k, v in shown.json.items() if k != "error"}) == []
    assert shapes.faults("error", {"error": error}) == []


def test_verify_without_damage(cli, node):
    """Without damage the object has no error."""
    node.answers["verify"] = {**shapes.sample("verify"), "damage": []}
    shown = cli("verify", "--json")
    assert shown.code == 0
    assert shapes.faults("verify", shown.json) == []


def test_faults_are_found():
    """The check of shapes notices a missing key, an unknown key, a wrong type and a wrong type in a list."""
    good = shapes.sample("prune")
    assert shapes.faults("prune", good) == []
    assert shapes.faults("prune", {**good, "more": 1}) == ["more is not documented"]
    assert shapes.faults("prune", {k: v for k, v in good.items() if k != "dry_run"}) == ["dry_run is missing"]
    assert shapes.faults("prune", {**good, "freed_bytes": True}) == ["freed_bytes is True, not integer"]
    element = {"kind": 1, "reference": None, "bytes": 2}
    assert shapes.faults("prune", {**good, "removed": [element]}) == ["removed[].kind is 1, not string"]
    assert shapes.faults("prune", {**good, "removed": [{"kind": "x"}]}) != []
    assert shapes.faults("publish", {**shapes.sample("publish"), "origin": None}) == []
