"""The JSON of every verb, frozen: what ``docs/cli.md`` must say and what the program must print.

One word per key: its path, a colon and its type. ``s`` string, ``i`` integer, ``n`` number, ``b`` boolean,
``o`` object, ``as`` array of string; ``?`` is "or null".
"""

import re
from pathlib import Path

DOC = Path(__file__).parents[3] / "docs" / "cli.md"

FROZEN = {
    "error": "error.code:s error.message:s error.hint:s?",
    "publish": (
        "reference:s digest:s version:i bytes:i new_bytes:i files:i seconds:n origin:o? origin.packs:i origin.bytes:i "
        "forms[].kind:s forms[].base:s? forms[].chunks:i forms[].raw:i forms[].encoded:i "
        "snapped[].path:s snapped[].tensor:s snapped[].whole:b snapped[].elements:i snapped[].changed:i "
        "snapped[].left_out:i snapped[].relative:n snapped[].largest:n"
    ),
    "pull": (
        "reference:s digest:s version:i path:s seconds:n unchanged:b bytes.total:i bytes.reused:i bytes.patched:i "
        "bytes.lan:i bytes.wan:i surplus.lan:i surplus.wan:i wire.lan:i wire.wan:i "
        "sources[].url:s sources[].kind:s sources[].bytes:i"
    ),
    "pull --dry-run": (
        "reference:s digest:s version:i bytes.total:i bytes.reused:i bytes.patched:i bytes.missing:i "
        "wire.bytes:i wire.seconds:n "
        "forms.offered[].kind:s forms.offered[].base:s? forms.offered[].chunks:i forms.offered[].raw:i "
        "forms.offered[].encoded:i forms.offered[].here:b "
        "forms.chosen[].kind:s forms.chosen[].chunks:i forms.chosen[].raw:i forms.chosen[].wire:i "
        "disk.needed:i disk.free:i"
    ),
    "ls": (
        "models[].reference:s models[].name:s models[].tag:s? models[].version:i models[].digest:s models[].size:i "
        "models[].disk_bytes:i models[].signer:s models[].created:i models[].expires:i? models[].installed:b "
        "models[].fragile:b models[].variants:as"
    ),
    "show": (
        "reference:s name:s tag:s? digest:s version:i signer:s created:i expires:i? size:i disk_bytes:i installed:b "
        "fragile:b path:s? files[].path:s files[].size:i files[].sha256:s files[].format:s files[].tensors:i "
        "files[].chunks:i files[].external:b files[].installed:b variants[].name:s variants[].default:b "
        "variants[].files:i variants[].size:i variants[].backend:s variants[].precision:s variants[].memory_bytes:i "
        "variants[].installed:b bases:as"
    ),
    "diff": (
        "a:s b:s files[].path:s files[].change:s tensors.equal:i tensors.moved:i tensors.changed:i tensors.added:i "
        "tensors.removed:i layers[].name:s layers[].kind:s layers[].change:s layers[].tensors.equal:i "
        "layers[].tensors.moved:i layers[].tensors.changed:i layers[].tensors.added:i layers[].tensors.removed:i "
        "layers[].total:i layers[].bytes:i layers[].ways[].kind:s layers[].ways[].wire:i layers[].ways[].seconds:n "
        "layers[].pull.wire:i layers[].pull.seconds:n bytes.total:i "
        "bytes.reused:i bytes.missing:i forms.link:n forms.unread:i "
        "forms.offered[].kind:s forms.offered[].base:s? forms.offered[].chunks:i forms.offered[].raw:i "
        "forms.offered[].encoded:i forms.offered[].here:b "
        "forms.chosen[].kind:s forms.chosen[].chunks:i forms.chosen[].raw:i forms.chosen[].wire:i "
        "forms.ways[].kind:s forms.ways[].wire:i forms.ways[].seconds:n forms.pull.wire:i forms.pull.seconds:n"
    ),
    "tag": "reference:s digest:s version:i",
    "rm": "reference:s digest:s tags:as removed:b freed_bytes:i dry_run:b",
    "prune": "removed[].kind:s removed[].reference:s? removed[].bytes:i freed_bytes:i dry_run:b",
    "verify": (
        "ok:b checked.versions:i checked.files:i checked.bytes:i damage[].reference:s damage[].path:s "
        "damage[].reason:s damage[].bytes:i repaired[].reference:s repaired[].fetched_bytes:i seconds:n "
        "run:o? run.variant:s run.backend:s run.probe:b run.seconds:n run.stages[].stage:s run.stages[].distance:n "
        "run.stages[].tolerance:n run.steps_down:as"
    ),
    "run": (
        "out:s sheet:s frames_dir:s? variant:s backend:s codec:s seed:i steps:i guidance:n height:i width:i frames:i "
        "seconds:n load_seconds:n seconds_per_step:n decode_seconds:n peak_memory_bytes:i? steps_down:as"
    ),
    "compress": (
        "path:s variants[].variant:s variants[].reference:s variants[].clips:i variants[].ssim:n "
        "variants[].ssim_least:n variants[].ssim_floor:n variants[].accuracy:n? variants[].accuracy_floor:n "
        "variants[].layers[].layer:s variants[].layers[].error:n"
    ),
    "run --plan": (
        "variant:s name:s backend:s height_px:i width_px:i frames:i steps:i tokens:i? weights_bytes:i expert_bytes:i? "
        "scores_bytes:i? decode_bytes:i? together_bytes:i? swapped_bytes:i? available_bytes:i? fits:s operations:i? "
        "seconds:n? tiled:b unknown:as"
    ),
    "status": (
        "home:s pid:i? serving:s? node:s? models:i "
        "store.bytes:i store.partial_bytes:i store.forms_bytes:i store.free:i "
        "partials[].digest:s partials[].name:s partials[].done:i partials[].total:i "
        "transfers[].reference:s transfers[].done:i transfers[].total:i transfers[].lan:i transfers[].wan:i "
        "transfers[].patched:i "
        "site:s? neighbours:i links:o? links.wan.received:i links.wan.sent:i links.lan.received:i links.lan.sent:i "
        "limits:o? limits.wan_down:n? limits.up:n? limits.wan_up:n? limits.lan_up:n? limits.peer_up:n? discovery:s?"
    ),
    "peers": (
        "peers[].node:s peers[].url:s? peers[].address:s peers[].software:s peers[].static:b peers[].rtt_ms:n "
        "peers[].seconds:n peers[].control.received:i peers[].control.sent:i peers[].received_bytes:i "
        "peers[].sent_bytes:i peers[].versions[].digest:s peers[].versions[].chunks:i peers[].versions[].holds:i "
        "peers[].versions[].wants:b peers[].versions[].fetches:b peers[].versions[].claims:i "
        "peers[].versions[].rate:i peers[].versions[].slow:b peers[].versions[].banned:b "
        "banned[].node:s banned[].reason:s banned[].seconds:n"
    ),
    "doctor": "checks[].name:s checks[].outcome:s checks[].found:s checks[].hint:s? failed:i warnings:i",
    "limits": "limits.wan_down:n? limits.up:n? limits.wan_up:n? limits.lan_up:n? limits.peer_up:n?",
    "key new": "name:s key:s id:s",
    "key ls": "keys[].name:s keys[].key:s keys[].id:s",
    "trust add": "pattern:s key:s id:s",
    "trust ls": "trusted[].pattern:s trusted[].key:s trusted[].id:s",
    "completion": "shell:s script:s",
}

_SAMPLES = {"s": "word", "i": 7, "n": 1.5, "b": True, "as": ["word"]}
_TYPES = {"s": "string", "i": "integer", "n": "number", "b": "boolean", "o": "object", "as": "array of string"}
_ROW = re.compile(r"\| `([\w.\[\]]+)` \| ([\w ]+?) \|")
_CHECKS = {
    "s": lambda v: isinstance(v, str),
    "i": lambda v: type(v) is int,
    "n": lambda v: type(v) in (int, float),
    "b": lambda v: type(v) is bool,
    "o": lambda v: isinstance(v, dict),
    "as": lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v),
}


def frozen(name):
    """Path to type letters of one verb."""
    return dict(word.split(":") for word in FROZEN[name].split())


def documented():
    """Section to path to type words, as ``docs/cli.md`` has them."""
    text = DOC.read_text().partition("\n## JSON\n")[2].partition("\n## Events\n")[0]
    sections = [part.partition("\n") for part in text.split("\n### ")[1:]]
    return {title.strip(): dict(_ROW.findall(body)) for title, _, body in sections}


def in_words(letters):
    """A type as the page writes it."""
    return _TYPES[letters.removesuffix("?")] + (" or null" if letters.endswith("?") else "")


def sample(name):
    """An object with every key of the shape of one verb, one element in each list."""
    root = {}
    for path, letters in frozen(name).items():
        *parents, leaf = path.split(".")
        at = root
        for parent in parents:
            child = at.setdefault(parent.removesuffix("[]"), [{}] if parent.endswith("[]") else {})
            at = child[0] if isinstance(child, list) else child
        at.setdefault(leaf, {} if letters.startswith("o") else _SAMPLES[letters.removesuffix("?")])
    return root


def faults(name, value):
    """Where ``value`` is not of the shape of one verb: keys missing, keys that the page does not know, other types."""
    shape = frozen(name)
    found = list(_faults(value, "", shape))
    return found + [f"{path} is missing" for path in _missing(value, shape)]


def _faults(value, path, shape):
    if path in shape:
        letters = shape[path]
        if not ((value is None and letters.endswith("?")) or _CHECKS[letters.removesuffix("?")](value)):
            yield f"{path} is {value!r}, not {in_words(letters)}"
        if not letters.startswith("o"):
            return
    if isinstance(value, dict):
        for key, inner in value.items():
            below = f"{path}.{key}".lstrip(".")
            known = any(p == below or p.startswith((f"{below}.", f"{below}[].")) for p in shape)
            if not known:
                yield f"{below} is not documented"
            else:
                yield from _faults(inner, below, shape)
    elif isinstance(value, list):
        for item in value:
            yield from _faults(item, f"{path}[]", shape)
    elif path not in shape:
        yield f"{path} is {value!r}"


def _missing(value, shape):
    for path in shape:
        if not _has(value, path.split(".")):
            yield path


def _has(value, parts):
    if value is None:
        return True  # An object that may be null; its own type is checked above.
    head, rest = parts[0], parts[1:]
    key = head.removesuffix("[]")
    if not isinstance(value, dict) or key not in value:
        return False
    inner = value[key]
    if not rest:
        return True
    return all(_has(item, rest) for item in inner) if head.endswith("[]") else _has(inner, rest)
