"""A publisher signs encoded chunks that are not what they promise: refused in bounded memory, and the chunks come raw.

Nobody on the network is to blame for what a publisher signed: no source is dropped, and the version is installed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2psync import codec
from p2psync.manifest import Reference
from p2psync.store import PublishOptions, Store
from p2psync.trust import Keyring
from tests.integration.lab import Publisher
from tests.integration.test_forms import WEIGHTS, bfloat16, write

Evil = Callable[[bytes], bytes]
# A zstd frame that declares 2^60 bytes: magic, a descriptor of an 8-byte size in one segment, the size, an empty block.
ENDLESS = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 60) + b"\x01\x00\x00"

FULL: dict[str, Evil] = {
    "other bytes": lambda raw: _encoded(bytes(reversed(raw))),
    "an unknown form": lambda raw: b"\xc8" + _encoded(raw)[1:],
    "half of it": lambda raw: _encoded(raw)[: len(raw) // 4],
    "something behind it": lambda raw: _encoded(raw) + b"x",
    "nothing but its head": lambda raw: _encoded(raw)[:3],
    "an endless frame": lambda raw: _encoded(raw)[:2] + ENDLESS,
    "noise": lambda raw: _encoded(raw)[:2] + np.random.default_rng(1).bytes(5000),
}
DELTA: dict[str, Evil] = {
    "a delta from another base": lambda raw: _delta(raw, bytes(len(raw))),
    "half of a delta": lambda raw: _delta(raw, raw[2:] + raw[:2])[:900],
    "a delta of noise": lambda raw: _delta(raw, raw[2:] + raw[:2])[:2] + np.random.default_rng(2).bytes(4000),
}


def _encoded(raw: bytes) -> bytes:
    made = codec.encode_full(raw, "BF16")
    assert made is not None
    return made


def _delta(raw: bytes, base: bytes) -> bytes:
    made = codec.encode_delta(raw, base, "BF16")
    assert made is not None
    return made


def weights(seed: int) -> dict[str, np.ndarray]:
    """Two tensors of 600,000 weights; another seed is a small step away."""
    base = np.random.default_rng(1).normal(0, 0.02, (2, 600_000))
    step = np.random.default_rng(seed).normal(0, 3e-5, base.shape) if seed else 0
    return {f"blocks.{n}.weight": bfloat16(values) for n, values in enumerate(base + step)}


def publish(publisher: Publisher, folder: Path, tag: str, *bases: str) -> None:
    """Publish inside this process, where the codec may have been exchanged."""
    key = Keyring(publisher.home.path / "keys").signing_key("maker")
    options = PublishOptions(now_unix_s=1, bases=tuple(map(Reference.parse, bases)))
    with Store.open(publisher.home.path) as store:
        published = store.publish(folder, Reference("acme/model", tag), key, options)
    assert published.forms


@pytest.mark.parametrize("what", FULL)
def test_a_full_form_that_lies(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk comes as it is from the same source, which keeps its good name."""
    publisher = Publisher.at(tmp_path / "publisher")
    folder = write(tmp_path / "model", weights(0))
    honest = codec.encode_full
    made = {}

    def lying(raw: bytes, dtype: str) -> bytes | None:
        monkeypatch.setattr(codec, "encode_full", honest)
        try:
            made[bytes(raw)] = FULL[what](bytes(raw)) if len(raw) > 10_000 else None
            return made[bytes(raw)]
        finally:
            monkeypatch.setattr(codec, "encode_full", lying)

    monkeypatch.setattr(codec, "encode_full", lying)
    monkeypatch.setattr("p2psync.store.forms.ENCODE_CHUNKS_MAX", 1)
    publish(publisher, folder, "v1")
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        done = node.run("pull", "acme/model:v1", "--from", seed.url, "--json")
    assert (Path(done.json["path"]) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert done.json["bytes"]["wan"] == done.json["bytes"]["total"]
    assert "dropped" not in done.stderr
    assert "banned" not in done.stderr
    assert made


@pytest.mark.parametrize("what", DELTA)
def test_a_delta_that_lies(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for deltas, with a base that is right."""
    publisher = Publisher.at(tmp_path / "publisher")
    before, after = write(tmp_path / "before", weights(0)), write(tmp_path / "after", weights(5))
    publish(publisher, before, "v1")
    honest = codec.encode_delta

    def lying(raw: bytes, base: bytes, dtype: str) -> bytes | None:
        monkeypatch.setattr(codec, "encode_delta", honest)
        try:
            return DELTA[what](bytes(raw)) if len(raw) > 10_000 else None
        finally:
            monkeypatch.setattr(codec, "encode_delta", lying)

    monkeypatch.setattr(codec, "encode_delta", lying)
    monkeypatch.setattr("p2psync.store.forms.ENCODE_CHUNKS_MAX", 1)
    publish(publisher, after, "v2", "acme/model:v1")
    node = publisher.node(tmp_path / "node")
    with publisher.home.serve() as seed:
        node.pull("acme/model:v1", "--from", seed.url)
        done = node.run("pull", "acme/model:v2", "--from", seed.url, "--json")
    assert (Path(done.json["path"]) / WEIGHTS).read_bytes() == (after / WEIGHTS).read_bytes()
    assert done.json["bytes"]["patched"] == 0
    assert "dropped" not in done.stderr
    assert "banned" not in done.stderr
