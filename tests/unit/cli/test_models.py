"""What the verbs of models ask of the node, and what they print of its answers."""

import json

import pytest

from p2psync.errors import (
    DigestMismatchError,
    ModelNotFoundError,
    RemoteProtocolError,
    StalledError,
    StoreLockedError,
    UnknownSignerError,
)
from tests.unit.cli import shapes

REF = "acme/m:v1"
DIGEST = "b3:" + "ab" * 32


@pytest.fixture
def pulled():
    """The answer to a pull that fetched something."""
    return {
        **shapes.sample("pull"),
        "reference": REF,
        "digest": DIGEST,
        "path": "/models/m",
        "unchanged": False,
        "seconds": 2.0,
        "bytes": {"total": 10_000_000, "reused": 4_000_000, "patched": 0, "lan": 5_000_000, "wan": 1_000_000},
    }


def test_publish_asks(cli, node, tmp_path, monkeypatch):
    """``publish`` hands over absolute paths, parsed references and seconds."""
    node.answers["publish"] = {**shapes.sample("publish"), "reference": f"{REF}@{DIGEST}"}
    monkeypatch.chdir(tmp_path)
    words = ("--key", "k", "--base", "acme/m:v0", "--base", f"acme/m@{DIGEST}", "--in-place", "--to", "www")
    shown = cli("publish", "model", REF, *words, "--expires", "30d")
    assert node.args == {
        "dir": str(tmp_path / "model"),
        "reference": REF,
        "key": "k",
        "bases": ["acme/m:v0", f"acme/m@{DIGEST}"],
        "in_place": True,
        "to": str(tmp_path / "www"),
        "expires_s": 2_592_000,
        "forms": True,
        "snap": None,
        "snap_steps": None,
    }
    assert shown.lines[-1] == f"{REF}@{DIGEST}"
    assert "of it new" in shown.err


def test_publish_asks_to_leave_out(cli, node):
    """``--snap`` hands over a share and a count, and what was left out is listed for people."""
    node.answers["publish"] = {**shapes.sample("publish"), "reference": f"{REF}@{DIGEST}"}
    shown = cli("publish", "model", REF, "--key", "k", "--base", REF, "--snap", "1e-4", "--snap-steps", "2")
    assert (node.args["snap"], node.args["snap_steps"]) == (1e-4, 2)
    assert "left out: 7 changes of elements in 1 tensor" in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ("--snap", "1e-4"),
        ("--snap", "1e-4", "--base", REF, "--in-place"),
        ("--snap", "1.5", "--base", REF),
        ("--snap", "0", "--base", REF),
        ("--snap-steps", "2", "--base", REF),
    ],
    ids=["no base", "in place", "over one", "zero", "steps alone"],
)
def test_publish_refuses_to_leave_out(cli, node, words):
    """Without a base, of files in place, with no share, or with steps alone: usage, and nothing is asked."""
    assert cli("publish", ".", REF, "--key", "k", *words).code == 2
    assert node.calls == []


def test_publish_refuses_a_digest(cli, node):
    """A digest names a version that is there: nothing new can be published under it."""
    assert cli("publish", ".", f"acme/m@{DIGEST}", "--key", "k").code == 2
    assert node.calls == []


def test_pull_asks(cli, node, pulled, tmp_path):
    """``pull`` hands over its sources by kind: --from is outside, --peer is this network."""
    node.answers["pull"] = pulled
    words = (
        "--from",
        "https://a",
        "--peer",
        "h:1",
        "--from",
        str(tmp_path),
        "--variant",
        "int8",
        "--to",
        "/x",
        "--link",
    )
    assert cli("pull", REF, *words).code == 0
    assert node.args == {
        "reference": REF,
        "sources": [
            {"url": "https://a", "kind": "wan"},
            {"url": tmp_path.as_uri(), "kind": "wan"},
            {"url": "http://h:1", "kind": "lan"},
        ],
        "to": "/x",
        "link": True,
        "variant": "int8",
        "watch": False,
        "dry_run": False,
        "offline": False,
    }


def test_pull_prints_the_path(cli, node, pulled):
    """The last line of standard output is the path, in each mode for people; the summary is beside it."""
    node.answers["pull"] = pulled
    shown = cli("pull", REF)
    assert shown.out == "/models/m\n"
    assert [line.split() for line in shown.err.splitlines()][1:] == [
        ["reused", "4.00", "MB"],
        ["lan", "5.00", "MB", "from", "peers"],
        ["wan", "1.00", "MB", "from", "outside"],
        ["moved", "14", "B,", "heads", "and", "all"],
        ["rate", "3.00", "MB/s"],
    ]
    quiet = cli("pull", REF, "-q")
    assert (quiet.out, quiet.err) == ("/models/m\n", "")


def test_pull_json_is_one_object(cli, node, pulled):
    """With --json standard output is one object, and standard error has no summary of it."""
    node.answers["pull"] = pulled
    node.events = [{"event": "installed", "path": "/models/m"}, {"event": "from a newer node"}]
    shown = cli("pull", REF, "--json")
    assert shown.json == pulled
    assert shown.err == ""


def test_pull_that_found_everything(cli, node, pulled):
    """A pull that moved nothing says so."""
    node.answers["pull"] = {**pulled, "unchanged": True}
    assert "is here already" in cli("pull", REF).err


def test_pull_dry_run(cli, node):
    """A dry run prints what would move, and with -q the digest."""
    node.answers["pull"] = {**shapes.sample("pull --dry-run"), "digest": DIGEST}
    assert any(line.startswith("to move ") for line in cli("pull", REF, "-n").lines)
    assert node.args["dry_run"]
    assert cli("pull", REF, "-n", "-q").out == f"{DIGEST}\n"


def test_pull_watch(cli, node, pulled):
    """--watch prints one answer for each version that was installed, and nothing for the end."""
    second = {**pulled, "version": 8, "path": "/models/m8"}
    node.events = [
        {"event": "result", "result": pulled},
        {"event": "waiting", "reason": "nobody is there", "retry_s": 10.0},
        {"event": "result", "result": second},
    ]
    node.answers["pull"] = {}
    shown = cli("pull", REF, "--watch")
    assert shown.lines == ["/models/m", "/models/m8"]
    assert "waiting, and trying again in 10 s: nobody is there" in shown.err
    lines = cli("pull", REF, "--watch", "--json").lines
    assert [shapes.faults("pull", json.loads(line)) for line in lines] == [[], []]


@pytest.mark.parametrize("words", [("--link",), ("--watch", "-n")])
def test_pull_refuses_what_cannot_be_together(cli, node, words):
    """--link without --to, and --watch with --dry-run, are refused before anything is opened."""
    assert cli("pull", REF, *words).code == 2
    assert node.calls == []


@pytest.mark.parametrize(
    "words", [("pull", "m"), ("show", "a b"), ("tag", "x", "t", "--key", "k"), ("verify", "m@b3:1")]
)
def test_references_are_checked_first(cli, node, words):
    """What is no reference exits 2 before the home is opened."""
    assert cli(*words).code == 2
    assert node.calls == []


def test_offline_asks_files_only(cli, node, pulled, tmp_path):
    """--offline drops what needs a network, says so, and keeps files."""
    node.answers["pull"] = pulled
    shown = cli("pull", REF, "--offline", "--from", "https://a", "--peer", "h:1", "--from", str(tmp_path))
    assert node.args["sources"] == [{"url": tmp_path.as_uri(), "kind": "wan"}]
    assert node.args["offline"]
    assert "https://a is not asked: --offline" in shown.err


def test_ls(cli, node):
    """``ls`` prints a table, with -q references, and for an empty home nothing on standard output."""
    row = {**shapes.sample("ls")["models"][0], "reference": REF, "digest": DIGEST, "expires": None}
    node.answers["ls"] = {"models": [row]}
    shown = cli("ls")
    assert shown.lines[0].split()[0] == "REFERENCE"
    assert shown.lines[1].split()[0] == REF
    assert "fragile" in shown.lines[1]
    assert cli("ls", "-q").lines == [REF]
    node.answers["ls"] = {"models": []}
    empty = cli("ls")
    assert empty.out == ""
    assert "no model is in" in empty.err


def test_diff_quiet_lists_what_differs(cli, node):
    """``diff -q`` prints the paths of files that are not equal."""
    files = [{"path": "a", "change": "equal"}, {"path": "b", "change": "changed"}]
    node.answers["diff"] = {**shapes.sample("diff"), "files": files}
    assert cli("diff", REF, "acme/m:v2", "-q").lines == ["b"]
    assert node.args == {"a": REF, "b": "acme/m:v2", "link": None}


def test_diff_of_equal_versions(cli, node):
    """Versions with equal files say so."""
    node.answers["diff"] = {**shapes.sample("diff"), "files": [{"path": "a", "change": "equal"}], "layers": []}
    assert cli("diff", REF, REF).lines[-1] == "all files are equal"


def layer(name, moves, change="changed", kind="tensors"):
    """A layer of one tensor whose delta has ``moves`` bytes, a hundredth of what it has in full."""
    ways = [{"kind": kind, "wire": wire, "seconds": 0.0} for kind, wire in (("raw", 100 * moves), ("delta", moves))]
    tensors = {**dict.fromkeys(("equal", "moved", "changed", "added", "removed"), 0), change: int(kind == "tensors")}
    pull = {"wire": moves, "seconds": moves / 1e6}
    return {
        "name": name,
        "kind": kind,
        "change": change,
        "tensors": tensors,
        "total": 9_000_000,
        "bytes": 100 * moves,
    } | {
        "ways": ways,
        "pull": pull,
    }


def comparison():
    """Four layers and a header; 4.11 MB move."""
    answer = shapes.sample("diff")
    layers = [layer("blocks.0", 1_000_000), layer("blocks.1", 3_000_000), layer("blocks.2", 0, "equal")]
    layers += [layer("blocks.3", 100_000, "added"), layer("model.safetensors", 10_000, kind="file")]
    ways = [{"kind": "raw", "wire": 411_000_000, "seconds": 4.1}, {"kind": "delta", "wire": 4_110_000, "seconds": 4.1}]
    costs = {"unread": 0, "ways": ways, "pull": {"wire": 4_110_000, "seconds": 4.11}}
    return {**answer, "layers": layers, "forms": {**answer["forms"], **costs}}


def test_diff_shows_the_layers_that_move_most(cli, node):
    """The largest first, what is left out in one line, and the sum, which is the version's."""
    node.answers["diff"] = comparison()
    assert cli("diff", REF, REF, "--layers", "2").lines[-6:] == [
        "LAYER     CHANGE         RAW    DELTA   A PULL  TAKES",
        "blocks.1  1 changed   300 MB  3.00 MB  3.00 MB  3.0 s",
        "blocks.0  1 changed   100 MB  1.00 MB  1.00 MB  1.0 s",
        "2 more               11.0 MB   110 kB   110 kB  0.1 s",
        "1 more    equal",
        "all                   411 MB  4.11 MB  4.11 MB  4.1 s",
    ]


def test_diff_shows_all_layers(cli, node):
    """``--all`` leaves none out, and what is no tensor of a file has a row too."""
    node.answers["diff"] = comparison()
    shown = [line.split()[0] for line in cli("diff", REF, REF, "--all").lines[-6:]]
    assert shown == ["blocks.1", "blocks.0", "blocks.3", "model.safetensors", "blocks.2", "all"]
    assert cli("diff", REF, REF, "--all", "--layers", "2").code == 2


def test_rm_and_prune(cli, node):
    """``rm`` and ``prune`` say what went and what would go."""
    node.answers["rm"] = {**shapes.sample("rm"), "tags": ["v1"], "digest": DIGEST, "dry_run": True}
    assert cli("rm", REF, "-n").lines == [
        "tag v1 would be removed",
        "version b3:abababab would be removed, 7 B would be freed",
    ]
    node.answers["rm"]["removed"] = False
    assert cli("rm", REF).lines[-1].startswith("version b3:abababab stays")
    assert cli("rm", REF, "-q").out == ""
    node.answers["prune"] = {"removed": [], "freed_bytes": 0, "dry_run": False}
    assert cli("prune").lines == ["0 B freed"]


def test_verify_names_damage(cli, node):
    """``verify`` prints one line per problem, exits 5, and hints at the repair; with --repair it hands over sources."""
    damage = [{"reference": f"acme/m@{DIGEST}", "path": "a.bin", "reason": "changed", "bytes": 1 << 20}]
    node.answers["verify"] = {**shapes.sample("verify"), "ok": False, "damage": damage, "repaired": []}
    shown = cli("verify", REF, "--from", "https://a")
    assert shown.code == 5
    assert shown.lines[0] == "changed  a.bin  1.05 MB  acme/m@b3:abababab"
    assert shown.err.endswith(
        f"error: a.bin of acme/m@{DIGEST} is damaged (changed)\n\nhint: p2psync verify {REF} --repair --from URL\n"
    )
    assert node.args == {"reference": REF, "repair": False, "sources": []}
    cli("verify", "--repair", "--from", "https://a")
    assert node.args == {"reference": None, "repair": True, "sources": [{"url": "https://a", "kind": "wan"}]}


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (ModelNotFoundError("gone", hint="look"), 3, "model_not_found"),
        (UnknownSignerError("who"), 4, "unknown_signer"),
        (DigestMismatchError("bad"), 5, "digest_mismatch"),
        (StoreLockedError("busy", pid=7), 6, "store_locked"),
        (StalledError("slow"), 7, "stalled"),
        (RemoteProtocolError("odd"), 8, "remote_protocol"),
        (OSError(28, "No space left on device"), 1, "os"),
        (ValueError("surprise"), 1, "fault"),
    ],
)
def test_errors_of_the_node(cli, node, error, code, word):
    """Each branch of errors has its exit code, its word in JSON, and its text on standard error in every mode."""
    node.answers["pull"] = error
    plain = cli("pull", REF, "-q")
    assert (plain.code, plain.out) == (code, "")
    assert plain.err.startswith("error: ")
    assert "Traceback" not in plain.err
    told = cli("pull", REF, "--json")
    assert told.code == code
    assert told.json["error"]["code"] == word
    assert told.err == plain.err
    assert "Traceback" in cli("pull", REF, "-v").err
