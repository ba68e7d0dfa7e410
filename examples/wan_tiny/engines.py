"""The engine directories of `int8-pruned` and `small`, kept as what the bundle does not say.

usage: python -m wan_tiny.engines v1 OUT

`p2psync compress` makes an engine from the bundle with torch, in minutes. Nearly all of its bytes follow from weights
that are committed anyway: from a version of the bundle, from what the fine-tune of the pruned experts added, and from
the one expert of `small`, which v1 has. So only the rest is kept (skeletons, scales, ranges, golden probes), and numpy
makes the weights again, bit for bit: a node, and the demonstration, need no torch. Every file is proved by its SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wan_tiny import small, versions

Array = NDArray[Any]
Parameters = dict[str, NDArray[np.float32]]

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE / "engines"
ORDER: Final = ("v1", "v2")
_SMALL: Final = "small/high.safetensors"
# Weights of an engine, and the file of the checkpoint that they come from: the bundle's, of `small` its own.
_SOURCES: Final = {
    "int8-pruned/high.safetensors": "transformer/diffusion_pytorch_model.safetensors",
    "int8-pruned/low.safetensors": "transformer_2/diffusion_pytorch_model.safetensors",
    "shared/text.safetensors": "text_encoder/model.safetensors",
    "shared/decode.safetensors": "vae/diffusion_pytorch_model.safetensors",
    _SMALL: small.WEIGHTS,
}
_EXPERTS: Final = {"int8-pruned/high.safetensors": "high", "int8-pruned/low.safetensors": "low"}
_DTYPES: Final = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
_LEVEL_MAX: Final = 127
_ATTENTION: Final = re.compile(r"(blocks\.\d+\.attn[12])\.(.*)")
# attention_head_dim in the config.json of both experts.
_HEAD_CHANNELS: Final = 64


def build(name: str, out: Path) -> Path:
    """Build the engine directory of version ``name`` in the new folder ``out``, and prove its files.

    Raises:
        ValueError: what comes out is not what was kept.
    """
    pieces, index = _kept(name)
    with tempfile.TemporaryDirectory() as room:
        bundle = versions.build(name, Path(room) / "bundle")
        for path, entry in index.items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            piece = entry.get("piece")
            data = pieces[piece] if piece else _weights(entry, pieces, _parameters(bundle, path))
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise ValueError(f"{path} is not the file that was kept as {name}")
            target.write_bytes(data)
    return out


def keep(engine: Path, name: str) -> int:
    """Keep the engine directory that was made of version ``name``. Returns the bytes that it takes."""
    before = _kept(ORDER[ORDER.index(name) - 1])[0] if name != ORDER[0] else {}
    pieces: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        bundle = versions.build(name, Path(room) / "bundle")
        for file in sorted(path for path in engine.rglob("*") if path.is_file()):
            path, data = str(file.relative_to(engine)), file.read_bytes()
            if path in _SOURCES:
                entry = _rules_of(data, pieces, _parameters(bundle, path))
            else:
                entry = {"piece": _put(pieces, data)}
            index[path] = {**entry, "sha256": hashlib.sha256(data).hexdigest()}
    fresh = {digest: data for digest, data in pieces.items() if digest not in before}
    head = json.dumps({"files": index, "pieces": [[digest, len(data)] for digest, data in fresh.items()]}).encode()
    packed = lzma.compress(
        len(head).to_bytes(4, "little") + head + b"".join(fresh.values()), format=lzma.FORMAT_XZ, filters=_FILTERS
    )
    FOLDER.mkdir(exist_ok=True)
    return (FOLDER / f"{name}.xz").write_bytes(packed)


def record(name: str) -> int:
    """Record the golden probes of a kept engine directory anew, and keep them. Needs the package and onnxruntime.

    Returns:
        The bytes that the version takes.
    """
    from p2psync.engine.probe import record_at

    with tempfile.TemporaryDirectory() as room:
        engine = build(name, Path(room) / name)
        for path in engine.glob("*/probe.json"):
            before = json.loads(path.read_text(encoding="utf-8"))
            inputs = {"prompt": before["prompt"], "seed": before["stages"]["high"]["seed"]}
            path.write_text(
                json.dumps(record_at(str(path.parent), inputs), ensure_ascii=False) + "\n", encoding="utf-8"
            )
        return keep(engine, name)


def _kept(name: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All pieces up to a version by their digest, and the files of that version by their path."""
    pieces: dict[str, bytes] = {}
    files: dict[str, Any] = {}
    for version in ORDER[: ORDER.index(name) + 1]:
        data = lzma.decompress((FOLDER / f"{version}.xz").read_bytes())
        at = 4 + int.from_bytes(data[:4], "little")
        head = json.loads(data[4:at])
        for digest, length in head["pieces"]:
            pieces[digest] = data[at : at + length]
            at += length
        files = head["files"]
    return pieces, files


def _put(pieces: dict[str, bytes], data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    pieces[digest] = data
    return digest


# How a tensor follows from a parameter. What follows from none is a piece.


def _made(rule: str, name: str, dtype: str, parameters: Parameters, scales: Array | None) -> Array:
    if rule == "zeros":
        return np.zeros(0, _DTYPES[dtype])
    value = parameters[name.removesuffix(".scale").removesuffix(".T")]
    turned = value.T if name.removesuffix(".scale").endswith(".T") else value
    if rule == "scales":
        largest: Array = np.abs(turned).max(axis=0)
        return (largest / np.float32(_LEVEL_MAX)).astype(np.float32)
    if rule == "codes":
        codes: Array = np.rint(turned / np.asarray(scales)[None, :])
        return np.clip(codes, -_LEVEL_MAX, _LEVEL_MAX).astype(np.int8)
    return turned.astype(_DTYPES[dtype])


def _rules_of(data: bytes, pieces: dict[str, bytes], parameters: Parameters) -> dict[str, Any]:
    """For each tensor the rule that gives its bytes, found by trying."""
    header, tensors = _read(data)
    rules: dict[str, str] = {}
    for name, (dtype, _shape, raw) in tensors.items():
        scales = np.frombuffer(tensors[f"{name}.scale"][2], "<f4") if f"{name}.scale" in tensors else None
        tries = ["scales"] if name.endswith(".scale") else ["codes"] if dtype == "I8" else ["cast"]
        if not any(raw):
            tries = ["zeros"]
        known = name.removesuffix(".scale").removesuffix(".T") in parameters
        for rule in tries:
            if rule == "zeros" or (known and _made(rule, name, dtype, parameters, scales).tobytes() == raw):
                rules[name] = rule
        if name not in rules:
            rules[name] = _put(pieces, raw)
    return {"header": _put(pieces, header), "rules": rules}


def _weights(entry: Mapping[str, Any], pieces: Mapping[str, bytes], parameters: Parameters) -> bytes:
    header = pieces[entry["header"]]
    places = _places(header)
    made: dict[str, bytes] = {}
    # Scales come first: codes are made with them.
    for name in sorted(places, key=lambda one: not one.endswith(".scale")):
        dtype, _, start, end = places[name]
        rule = entry["rules"][name]
        if rule == "zeros":
            made[name] = bytes(end - start)
        elif rule in ("cast", "scales", "codes"):
            scales = np.frombuffer(made[f"{name}.scale"], "<f4") if rule == "codes" else None
            made[name] = _made(rule, name, dtype, parameters, scales).tobytes()
        else:
            made[name] = pieces[rule]
    return header + b"".join(made[name] for name in sorted(places, key=lambda one: places[one][2]))


# Weights of the bundle, as numpy reads them.


def _parameters(bundle: Path, path: str) -> Parameters:
    """The parameters that a file of an engine is made of: the bundle's, those of experts as they were cut and tuned.

    The checkpoint of `small` is built beside the bundle, whose folder is a temporary one.
    """
    checkpoint = small.build(bundle.with_name("small"), bundle=bundle) if path == _SMALL else bundle
    _, tensors = _read((checkpoint / _SOURCES[path]).read_bytes())
    whole = {name: _wide(raw, dtype).reshape(shape) for name, (dtype, shape, raw) in tensors.items()}
    return _tuned(whole, _EXPERTS[path]) if path in _EXPERTS else whole


def _tuned(whole: Parameters, expert: str) -> Parameters:
    """An expert with the channels and heads that pruning kept, and what the fine-tune added. See compress/tuned.py."""
    _, tensors = _read(lzma.decompress((HERE / "pruned.xz").read_bytes()))
    own = {
        name.removeprefix(f"{expert}/"): np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
        for name, (dtype, shape, raw) in tensors.items()
        if name.startswith(f"{expert}/")
    }
    kept = {name.removeprefix("kept/"): value for name, value in own.items() if name.startswith("kept/")}
    found: Parameters = {}
    for name, value in whole.items():
        learned, step = own[name].astype(np.float32), own.get(f"{name}/step")
        found[name] = learned if step is None else _cut(name, value, kept) + learned * step[0]
    return found


def _cut(name: str, value: NDArray[np.float32], kept: Mapping[str, Array]) -> NDArray[np.float32]:
    """The rows, or of an output projection the columns, that pruning left of a parameter."""
    block, _, rest = name.partition(".ffn.")
    if rest:
        channels = kept[f"{block}.ffn"]
        return value[channels] if rest.startswith("net.0") else _columns(value, channels)
    found = _ATTENTION.match(name)
    if found is None:
        return value
    heads, rest = kept[found[1]], found[2]
    channels = (heads[:, None] * _HEAD_CHANNELS + np.arange(_HEAD_CHANNELS)).ravel()
    return _columns(value, channels) if rest.startswith("to_out") else value[channels]


def _columns(value: NDArray[np.float32], channels: Array) -> NDArray[np.float32]:
    return value[:, channels] if value.ndim == 2 else value


def _wide(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, _DTYPES[dtype]).astype(np.float32)


def _read(data: bytes) -> tuple[bytes, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """The header of a safetensors file, and of each tensor its dtype, shape and bytes."""
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    body = memoryview(data)[len(header) :]
    return header, {n: (dtype, shape, bytes(body[a:b])) for n, (dtype, shape, a, b) in _places(header).items()}


def _places(header: bytes) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    entries: Iterator[tuple[str, Any]] = iter(json.loads(header[8:]).items())
    return {
        name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in entries
        if name != "__metadata__"
    }


def main() -> None:
    """Build one engine directory, keep one, or record the golden probes of one anew."""
    parser = argparse.ArgumentParser(description="Build an engine directory of wan-tiny without torch.")
    parser.add_argument("version", choices=ORDER)
    parser.add_argument("out", type=Path, nargs="?", help="a folder that is not there yet")
    parser.add_argument("--keep", action="store_true", help="keep the engine directory OUT as that version instead")
    parser.add_argument("--record", action="store_true", help="record that version's golden probes anew")
    arguments = parser.parse_args()
    if arguments.record == (arguments.out is not None):
        parser.error("either OUT or --record")
    if arguments.record:
        print(record(arguments.version), "bytes")
    elif arguments.keep:
        print(keep(arguments.out, arguments.version), "bytes")
    else:
        print(build(arguments.version, arguments.out))


if __name__ == "__main__":
    main()
