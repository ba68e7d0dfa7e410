"""Every verb of the command line as data: arguments, help, examples, exit codes, and where its work stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from p2psync.cli import values

EXIT_CODES: Final = {
    0: "done",
    1: "another fault",
    2: "usage",
    3: "not found",
    4: "trust",
    5: "integrity",
    6: "this disk",
    7: "network",
    8: "protocol",
    9: "model",
    130: "interrupted",
}
SHELLS: Final = ("bash", "zsh", "fish", "tcsh")
DEFAULT_HOME: Final = "~/.p2psync"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, and with it one variable. Without ``metavar`` it is a switch.

    ``complete`` is what a shell offers as its value: ``directory``, or nothing.
    """

    name: str
    help: str
    metavar: str = ""
    short: str = ""
    many: bool = False
    required: bool = False
    parse: Callable[[str], Any] = str
    complete: str = ""

    @property
    def dest(self) -> str:
        """The key of its value: ``--dry-run`` is ``dry_run``."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that stands in for it."""
        return f"P2PSYNC_{self.dest.upper()}"


@dataclass(frozen=True, slots=True)
class Operand:
    """One positional argument. ``choices`` empty means anything; ``optional`` ones are None when left out."""

    name: str
    help: str
    optional: bool = False
    choices: tuple[str, ...] = ()
    complete: str = ""

    @property
    def dest(self) -> str:
        """The key of its value."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. ``run`` is ``module:function`` inside this room, imported when the verb is used.

    ``faults`` are the exit codes that it has besides those of every verb.
    """

    name: str
    run: str
    summary: str
    description: str
    examples: tuple[str, str]
    faults: tuple[int, ...]
    operands: tuple[Operand, ...] = ()
    flags: tuple[Flag, ...] = ()

    @property
    def exits(self) -> tuple[int, ...]:
        """Every exit code that it may have, ascending."""
        return tuple(sorted({0, 1, 2, 130, *self.faults}))


GLOBAL_FLAGS: Final = (
    Flag(
        "--home",
        f"where keys, trust and models are (default: {DEFAULT_HOME})",
        "DIR",
        parse=values.absolute_path,
        complete="directory",
    ),
    Flag("--json", "one JSON object per answer on standard output"),
    Flag("--quiet", "ids or paths only, and no progress", short="-q"),
    Flag("--verbose", "a log, and a traceback with an error", short="-v"),
    Flag("--no-progress", "no progress on standard error"),
    Flag("--offline", "open no connection"),
    Flag("--log-json", "the log as one JSON object per line on standard error, from `info` on"),
)

_REF = Operand("REF", "name[:tag][@b3:digest]; the tag is `latest` when left out")
_FROM = Flag(
    "--from",
    "a seed or origin tree outside: https://, http://, file:/// or a directory; repeatable",
    "URL",
    many=True,
    parse=values.source_url,
)
_PEER = Flag("--peer", "a node on this network: host:port; repeatable", "URL", many=True, parse=values.peer_url)
_KEY = Flag("--key", "the key that signs, as `p2psync key ls` shows it", "NAME", required=True)
_DRY_RUN = Flag("--dry-run", "show what would happen, and do nothing", short="-n")

_ENGINE = (
    Flag("--variant", "one variant of the version (default: what suits this machine)", "V"),
    Flag("--backend", "ort-cpu, ort-cuda, torch, tensorrt or tensorrt-rtx (default: the fastest that runs)", "B"),
)

_MODELS = (
    Verb(
        "publish",
        "models:publish",
        "sign a directory as the next version of a model",
        "Take a snapshot of DIR, cut and hash it, encode its tensors (in full, and as deltas against each --base), and "
        "sign it as the next version of REF. The last line of standard output is the reference with its digest. "
        "DIR/p2psync.toml may declare variants.",
        (
            "p2psync publish ./llama acme/llama:v4 --key release --base acme/llama:v3",
            "p2psync publish ./llama acme/llama --key release --to /srv/www/models",
        ),
        (3, 5, 6),
        (
            Operand("DIR", "the directory that holds the model's files", complete="directory"),
            Operand("REF", "name[:tag]; the tag is `latest` when left out"),
        ),
        (
            _KEY,
            Flag("--base", "a version to make deltas from, for nodes that have it; repeatable", "REF", many=True),
            Flag("--no-forms", "do not encode chunks: nothing but raw bytes is offered, and publishing is faster"),
            Flag(
                "--snap",
                "leave out changes that mean nothing: a tensor whose mean squared change is under this share of the "
                "base's mean square keeps the base's bytes; what was left out is listed",
                "SHARE",
                parse=values.number,
            ),
            Flag(
                "--snap-steps",
                "with --snap, in other tensors too: elements at most so many representable numbers from the base's",
                "COUNT",
                parse=values.whole,
            ),
            Flag("--in-place", "index the files where they are instead of taking a snapshot; do not edit them after"),
            Flag(
                "--to",
                "also write a static origin tree there, for any web server or a USB stick",
                "DIR",
                parse=values.absolute_path,
                complete="directory",
            ),
            Flag("--expires", "refuse new pulls after this time: 30d, 12h, 90m, 45s", "AGE", parse=values.age_s),
        ),
    ),
    Verb(
        "pull",
        "models:pull",
        "bring a version here: prove, reuse, install",
        "Bring every byte that is not here yet from all sources at once, prove it, and install the version. The last "
        "line of standard output is its path. An interrupted pull goes on where it was.",
        (
            "p2psync pull acme/llama:v3 --from https://models.acme.example",
            "p2psync pull acme/llama --peer 10.0.0.7:7007 --to ./llama",
        ),
        (3, 4, 5, 6, 7, 8),
        (_REF,),
        (
            _FROM,
            _PEER,
            Flag(
                "--to",
                "also export the files to this directory",
                "DIR",
                parse=values.absolute_path,
                complete="directory",
            ),
            Flag("--link", "with --to: read-only hard links instead of copies"),
            Flag("--variant", "one variant of the version (default: the one its publisher chose)", "V"),
            Flag("--watch", "stay, and install each new version of the tag"),
            _DRY_RUN,
        ),
    ),
    Verb(
        "ls",
        "models:ls",
        "list what is here",
        "List the versions in this home, one line per tag.",
        ("p2psync ls", "p2psync ls --json | jq -r '.models[] | select(.fragile) | .reference'"),
        (6,),
    ),
    Verb(
        "show",
        "models:show",
        "describe one version: files, variants, signer",
        "Describe a version that is here: who signed it and when, its files with their formats, its variants and "
        "what each needs.",
        ("p2psync show acme/llama:v3", "p2psync show acme/llama --json | jq .files"),
        (3, 6),
        (_REF,),
    ),
    Verb(
        "diff",
        "models:diff",
        "compare two versions: what a pull would move",
        "Compare two versions that are here, by files, tensors and layers, count the bytes of B that A has not, and "
        "say what a pull of B by a holder of A would move in each form, and how long that takes on a link: of the "
        "version, and of each layer, those that move most first. --json has every layer.",
        (
            "p2psync diff acme/llama:v2 acme/llama:v3 --layers 5",
            "p2psync diff acme/llama:v2 acme/llama:v3 --link 5MB --json",
        ),
        (3, 6),
        (Operand("A", "the version to start from"), Operand("B", "the version to end with")),
        (
            Flag(
                "--link",
                "what the link gives per second, like 500KB or 20MB (default: 2.5MB, which is 20 Mbit/s)",
                "RATE",
                parse=values.rate_bytes_per_s,
            ),
            Flag("--layers", "show so many of the layers that are not equal (default: 20)", "N", parse=values.whole),
            Flag("--all", "show every layer, equal ones too"),
        ),
    ),
    Verb(
        "tag",
        "models:tag",
        "sign another tag for a version",
        "Sign a head that gives the version REF the tag TAG. Its number under that tag goes up by one.",
        (
            "p2psync tag acme/llama:v3 stable --key release",
            "p2psync tag acme/llama@b3:DIGEST stable --key release",
        ),
        (3, 6),
        (_REF, Operand("TAG", "the new tag")),
        (_KEY,),
    ),
    Verb(
        "rm",
        "models:rm",
        "remove a tag, and the version that no tag names then",
        "Remove the tag of REF here; with a digest, the version and all its tags. Files go when no tag names their "
        "version and nothing that stays needs them.",
        ("p2psync rm acme/llama:v1 -n", "p2psync rm acme/llama:v1"),
        (3, 6),
        (_REF,),
        (_DRY_RUN,),
    ),
    Verb(
        "prune",
        "models:prune",
        "free the bytes that no tag needs",
        "Remove versions without a tag, and interrupted pulls that are a week old or of no use. What is tagged, "
        "pinned, in flight or linked from what stays is kept.",
        ("p2psync prune -n", "p2psync prune"),
        (6,),
        (),
        (_DRY_RUN,),
    ),
    Verb(
        "verify",
        "models:verify",
        "prove every byte again, and repair what is damaged",
        "Read every byte of REF, or of everything that is here, and prove it again. With --repair what does not "
        "prove is replaced: from this disk where it is, else from the sources. Files that were published in place are "
        "their publisher's and never written: such a version is repaired as a copy in the home, which needs its room.",
        ("p2psync verify", "p2psync verify acme/llama --repair --from https://models.acme.example"),
        (3, 4, 5, 6, 7, 8, 9),
        (Operand("REF", "only this version", optional=True),),
        (
            Flag("--repair", "replace what does not prove"),
            _FROM,
            _PEER,
            Flag("--run", "also answer the golden probe that the publisher signed, on the engine that would run"),
            *_ENGINE,
        ),
    ),
)

_RUNNING = (
    Verb(
        "run",
        "engines:run",
        "make a clip from a prompt",
        "Run the engine of REF, a version that is here: the prompt becomes an mp4 and beside it a contact sheet, "
        "FILE.sheet.png. Nothing is fetched. Needs the extra `engine` (or `gpu`), not torch.",
        (
            'p2psync run demo/wan-tiny:v1 --prompt "a red circle moves left" --out clip.mp4',
            "p2psync run demo/wan-tiny:v1 --plan --size 720x1280 --frames 81",
        ),
        (3, 5, 6, 8, 9),
        (_REF,),
        (
            Flag("--prompt", "what to show", "TEXT"),
            Flag("--out", "the mp4 to write", "FILE", parse=values.absolute_path),
            Flag("--seed", "0 to 4294967295 (default: drawn, and printed)", "N", parse=values.whole),
            Flag("--steps", "denoising steps (default: what the publisher chose)", "N", parse=values.whole),
            Flag("--guidance", "how strictly to follow the prompt; 1 is half the work", "G", parse=values.number),
            Flag("--size", "height and width in pixels", "HxW", parse=values.frame_size),
            Flag("--frames", "how many, 4k+1", "N", parse=values.whole),
            Flag("--plan", "say what it would take in memory and time, and make nothing"),
            Flag(
                "--frames-dir",
                "also write every frame there as PNG",
                "DIR",
                parse=values.absolute_path,
                complete="directory",
            ),
            *_ENGINE,
        ),
    ),
)

_SHRINKING = (
    Verb(
        "compress",
        "shrinking:compress",
        "make smaller variants of a checkpoint",
        "Make from SRC, a diffusers Wan checkpoint, the engine directories that a recipe names: fp16, INT8, pruned. "
        "Each is measured on the engine that nodes run, and one under its floor is refused. DST appears complete, or "
        "not at all; `p2psync publish DST` publishes it. Needs the extra `compress` (torch).",
        (
            "p2psync compress checkpoint/ engines/ --recipe recipe.toml",
            "p2psync compress v2/ engines-v2/ --recipe recipe.toml --lineage engines/",
        ),
        (3, 5, 6, 9),
        (
            Operand("SRC", "the checkpoint", complete="directory"),
            Operand("DST", "a directory that is not there yet", complete="directory"),
        ),
        (
            Flag("--recipe", "what to make", "FILE", required=True, parse=values.absolute_path),
            Flag(
                "--lineage",
                "what was made of the version before: its scales and kept indices stay, so that few codes change",
                "DIR",
                parse=values.absolute_path,
                complete="directory",
            ),
            Flag("--device", "cpu or cuda", "DEVICE"),
            Flag("--judge", "a function (prompt, clip) that says whether a clip shows its prompt", "MODULE:FUNCTION"),
        ),
    ),
)

_LIMITS = (
    Flag("--wan-down", "bytes per second from outside: 500k, 2M, 10Mbit", "RATE", parse=values.rate_bytes_per_s),
    Flag("--wan-up", "bytes per second to readers outside the site's networks", "RATE", parse=values.rate_bytes_per_s),
    Flag("--lan-up", "bytes per second to readers on the LAN", "RATE", parse=values.rate_bytes_per_s),
    Flag("--peer-up", "bytes per second to each reader alone", "RATE", parse=values.rate_bytes_per_s),
)

_SHARING = (
    Verb(
        "serve",
        "nodes:serve",
        "hand out what is here, and do the work of this home",
        "Serve everything in this home until stopped, and take over the verbs that other p2psync commands run on the "
        "same home. The first line of standard output is `listening URL node=ID`.",
        ("p2psync serve --open", "p2psync serve --listen 127.0.0.1:7007 --upload-limit 10Mbit"),
        (6, 7),
        (),
        (
            Flag(
                "--listen",
                "where to listen (default: a free port of 127.0.0.1, with --open of all interfaces)",
                "HOST:PORT",
                parse=values.listen_address,
            ),
            Flag("--open", "answer other machines; bytes are proved, not secret"),
            Flag("--no-discovery", "neither announce this node nor look for others"),
            Flag("--site", "which nodes belong together; nodes of another site are refused", "ID"),
            Flag(
                "--peer", "a node to meet wherever it is: HOST:PORT or a URL", "URL", many=True, parse=values.peer_url
            ),
            Flag("--follow", "keep the newest version of REF here; needs --from", "REF", many=True),
            Flag(
                "--from",
                "where --follow looks: a seed, an origin tree or a folder",
                "URL",
                many=True,
                parse=values.source_url,
            ),
            Flag(
                "--upload-limit",
                "bytes per second, all readers together: 500k, 2M, 10Mbit",
                "RATE",
                parse=values.rate_bytes_per_s,
            ),
            *_LIMITS,
            Flag(
                "--metrics",
                "who may read /metrics: loopback (default), open or off",
                "WHO",
                parse=values.exposure,
            ),
        ),
    ),
    Verb(
        "limits",
        "nodes:limits",
        "see or change the limits of a running node",
        "Change how fast the running serve of this home may fetch and send, from now on. A RATE of `none` ends a "
        "limit; without a flag the limits are only shown.",
        ("p2psync limits --wan-down 10Mbit", "p2psync limits --wan-down none --peer-up 5M"),
        (3, 6),
        (),
        (
            Flag("--up", "to all readers together", "RATE", parse=values.limit),
            *(Flag(flag.name, flag.help, "RATE", parse=values.limit) for flag in _LIMITS),
        ),
    ),
    Verb(
        "peers",
        "nodes:peers",
        "the other nodes of the site, and who has what",
        "List the nodes that the running serve of this home has met: where they are, what was exchanged with them, "
        "what they hold of the versions that are being pulled, and whom it refuses and why.",
        ("p2psync peers", "p2psync peers --json | jq -r '.peers[].url'"),
        (3, 6),
    ),
    Verb(
        "status",
        "nodes:status",
        "what is stored, arriving and running",
        "Say what this home stores, which pulls are unfinished, and whether a node serves it.",
        ("p2psync status", "p2psync status --watch"),
        (6,),
        (),
        (Flag("--watch", "show it again every two seconds"),),
    ),
    Verb(
        "doctor",
        "doctor:doctor",
        "what is wrong with this machine, before it hurts",
        "Look at Python and its packages, the home and its disk, keys and trust, the clock and the network, and say "
        "what fails or will fail, each with what to do. Nothing is changed and no other machine is asked; --offline "
        "leaves the network out. It ends with 0 unless p2psync cannot run here at all: 6 where no home can be had, 1 "
        "where Python or the packages will not do.",
        ("p2psync doctor", "p2psync doctor --json | jq -r '.checks[] | select(.outcome != \"ok\").name'"),
        (6,),
    ),
)

_NAME = Operand("NAME", "of the key: a-z, 0-9, dot, underscore and dash")
_PATTERN = Operand("PATTERN", "NAMESPACE/*, NAMESPACE/PREFIX* or NAMESPACE/NAME; quote the star")

_TRUST = (
    Verb(
        "key new",
        "keys:key_new",
        "make a key to sign with",
        "Make an Ed25519 key. The secret half stays in this home (0600), the public half is printed: it is what "
        "others trust.",
        ("p2psync key new release", "p2psync key new release --home /srv/p2psync"),
        (6,),
        (_NAME,),
    ),
    Verb(
        "key ls",
        "keys:key_ls",
        "list the keys of this home",
        "List the keys that this home can sign with, with their public halves.",
        ("p2psync key ls", "p2psync key ls --json"),
        (6,),
    ),
    Verb(
        "key export",
        "keys:key_export",
        "print the public half of a key",
        "Print the public half of a key: ed25519: and 64 hex digits, and nothing else.",
        (
            "p2psync key export release",
            "p2psync key export release --home /srv/p2psync",
        ),
        (3, 6),
        (_NAME,),
    ),
    Verb(
        "trust add",
        "keys:trust_add",
        "say whose signature counts for which names",
        "Bind the names that PATTERN matches to a publisher's key. The longest matching pattern decides, and a "
        "pattern has one owner.",
        (
            "p2psync trust add 'acme/*' ed25519:HEX",
            "p2psync trust add 'acme/*' $(p2psync key export release) --home /srv/node",
        ),
        (4, 6),
        (_PATTERN, Operand("KEY", "the publisher's public key: ed25519: and 64 hex digits")),
    ),
    Verb(
        "trust ls",
        "keys:trust_ls",
        "list who is trusted for which names",
        "List the patterns and the key that each is bound to.",
        ("p2psync trust ls", "p2psync trust ls --json"),
        (6,),
    ),
    Verb(
        "trust rm",
        "keys:trust_rm",
        "take a binding back",
        "Unbind PATTERN. What is installed stays; new pulls of its names are refused.",
        ("p2psync trust rm 'acme/*'", "p2psync trust rm acme/llama"),
        (3, 6),
        (_PATTERN,),
    ),
)

_SHELL = (
    Verb(
        "completion",
        "completion:completion",
        "print a completion script for a shell",
        "Print a script that completes verbs, flags and directories. It needs nothing at run time.",
        (
            "p2psync completion bash > ~/.local/share/bash-completion/completions/p2psync",
            "p2psync completion zsh > ~/.zfunc/_p2psync",
        ),
        (),
        (Operand("SHELL", ", ".join(SHELLS), choices=SHELLS),),
    ),
)

GROUPS: Final = {
    "models": _MODELS,
    "engines": _RUNNING + _SHRINKING,
    "sharing": _SHARING,
    "keys and trust": _TRUST,
    "shell": _SHELL,
}
VERBS: Final = {verb.name: verb for group in GROUPS.values() for verb in group}
FAMILIES: Final = tuple(dict.fromkeys(name.partition(" ")[0] for name in VERBS if " " in name))
