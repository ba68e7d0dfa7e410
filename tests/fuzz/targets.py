"""Every reader of bytes from outside, as a function that takes any bytes and raises nothing but errors of ours.

Where what was read can be written again, it must be the same bytes, or mean the same: two texts of one meaning are how
two nodes come to differ. ``tools/fuzz.py`` looks for bytes that break a target; what it found stands in the corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import tests.fuzz.home_targets
import tests.fuzz.index_targets  # noqa: F401
from p2psync import codec
from p2psync.codec.form import BASES, Form
from p2psync.content import external_tensors, file_layout
from p2psync.limits import CHUNK_BYTES
from p2psync.manifest import Reference, check_paths, decode_index, forms, nodes, peek_head
from p2psync.manifest.head import peek_key_hint
from tests.fuzz.registry import TARGETS, standing, target

__all__ = ["TARGETS"]

# Of what a hostile file may be, so that one input takes microseconds.
_RAW_BYTES_MAX: Final = 4096


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, count: data[offset : offset + count]


@target
def head(data: bytes) -> None:
    """A signed head, before its signature is looked at."""
    peek_key_hint(data)
    found = peek_head(data)
    assert found.version >= 0
    assert found.size >= 0


@target
def root_node(data: bytes) -> None:
    """The first node of a manifest: one text for one meaning."""
    assert nodes.encode_root(nodes.decode_root(data)) == data


@target
def file_node(data: bytes) -> None:
    """The groups of a file."""
    assert nodes.encode_file(nodes.decode_file(data)) == data


@target
def group_node(data: bytes) -> None:
    """The blobs of a group."""
    assert nodes.encode_group(nodes.decode_group(data)) == data


@target
def chunks_node(data: bytes) -> None:
    """The chunks of a blob."""
    assert nodes.encode_chunks(nodes.decode_chunks(data)) == data


@target
def forms_node(data: bytes) -> None:
    """The sets of encoded chunks."""
    encoded = int.from_bytes(data[:2], "big")
    assert forms.encode_forms(forms.decode_forms(data[2:], encoded)) == data[2:]


@target
def rows_node(data: bytes) -> None:
    """Rows of encoded chunks."""
    chunks = int.from_bytes(data[:2], "big")
    assert forms.encode_rows(forms.decode_rows(data[2:], chunks)) == data[2:]


@target
def pack_index(data: bytes) -> None:
    """Where chunks stand in the packs of an origin tree."""
    found = decode_index(data)
    assert all(0 <= spot.pack < len(found.packs) for spot in found)


@target
def safetensors(data: bytes) -> None:
    """The header of a file: spans that touch and cover it."""
    _layout("model.safetensors", data)


@target
def gguf(data: bytes) -> None:
    """The same of GGUF."""
    _layout("model.gguf", data)


@target
def onnx(data: bytes) -> None:
    """The same of ONNX, and what it keeps in other files."""
    for location, tensors in external_tensors("model.onnx", len(data), _reader(data)).items():
        assert tensors
        check_paths([location])
    _layout("model.onnx", data)


def _layout(name: str, data: bytes) -> None:
    spans = file_layout(name, len(data), _reader(data)).spans
    assert sum(span.length for span in spans) == len(data)


@target
def encoded_chunk(data: bytes) -> None:
    """An encoded chunk of any form, with bases of the right length, decodes to as many bytes as were asked for."""
    if len(data) < 5:
        return
    raw_bytes = 1 + int.from_bytes(data[:2], "little") % _RAW_BYTES_MAX
    seed, body = data[2], data[3:]
    with suppress(ValueError):
        form = Form(body[0])
        base = bytes((seed * (i + 7) >> 3) & 0xFF for i in range(raw_bytes))
        # Codes are half as long as the 16-bit elements that they tell, scales are F32.
        bases = {0: [], 1: [base], 2: [base[: raw_bytes // 2], bytes(4 * (1 + seed % 8))]}[BASES[form]]
        assert len(codec.decode(body, bases, raw_bytes)) == raw_bytes <= CHUNK_BYTES


@target
def channel_message(data: bytes) -> None:
    """A message of the swarm about a version of 100 chunks."""
    from p2psync.swarm import messages

    found = messages.decode(data, lambda _topic: 100)
    if found is not None:
        written = messages.encode(found)
        again = messages.decode(written, lambda _topic: 100)
        assert again is not None
        assert messages.encode(again) == written


@target
def inventory(data: bytes) -> None:
    """What a source says that it holds of 300 chunks."""
    from p2psync.swarm.inventory import Inventory

    found = Inventory.from_wire(data, 300)
    assert Inventory.from_wire(found.to_bytes(), 300).to_bytes() == found.to_bytes()


@target
def runs(data: bytes) -> None:
    """Chunk numbers of a message, as runs."""
    from p2psync.swarm.inventory import decode_runs

    assert all(0 <= start <= end <= 300 for start, end in decode_runs(data, 300))


@target
def gossip(data: bytes) -> None:
    """Where a neighbour says that others are."""
    from p2psync.swarm.gossip import decode_gossip, encode_gossip

    found = decode_gossip(data)
    assert decode_gossip(encode_gossip(found)) == found


@target
def channel_hello(data: bytes) -> None:
    """The first message of a site channel."""
    from p2psync.transport.handshake import decode_hello, encode_hello

    found = decode_hello(data)
    assert decode_hello(encode_hello(found)) == found


@target
def answer_head(data: bytes) -> None:
    """The head of an HTTP answer, as the fast client reads it."""
    from p2psync.transport.http_head import read_head

    found = read_head(data)
    assert 100 <= found.status <= 999
    assert found.length is None or found.length >= 0


@target
def announcement_text(data: bytes) -> None:
    """The text of an announcement, split as the library splits it."""
    from p2psync.transport.discovery import refuse_text

    pairs = [part.partition(b"=") for part in data.split(b"\x00")]
    reason = refuse_text(data, {key: value for key, _, value in pairs}, "0123456789abcdef")
    assert reason in (None, "long", "protocol", "node")


@target
def batch_answer(data: bytes) -> None:
    """Many small chunks in one answer: frames inside it, in order."""
    from p2psync.transport.frames import ABSENT, LATER, read_frames

    for start, length in read_frames(data, 3):
        assert length in (ABSENT, LATER) or start + length <= len(data)


@target
def batch_question(data: bytes) -> None:
    """The chunks that a client asks for at once."""
    from p2psync.transport.frames import decode_digests, encode_digests

    assert encode_digests(decode_digests(data)) == data


@target
def reference(data: bytes) -> None:
    """What people and other programs write for a version."""
    found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    assert Reference.parse(str(found)) == found


@target
def paths(data: bytes) -> None:
    """The files of a manifest: nothing that leads out, no two that are one."""
    names = data.decode("utf-8", "surrogateescape").split("\n")
    check_paths(names)
    assert all(name and not name.startswith("/") and ".." not in name.split("/") for name in names)
    assert len({name.casefold() for name in names}) == len(names)


@target
def settings_file(data: bytes) -> None:
    """p2psync.toml, which declares variants."""
    from p2psync.store.settings import parse_settings

    parse_settings(data)


@target
def recipe(data: bytes) -> None:
    """A recipe of ``p2psync compress``."""
    from p2psync.compress.recipe import parse_recipe

    parse_recipe(data, directory="/nowhere")


@target
def engine_json(data: bytes) -> None:
    """engine.json: strict JSON, and then its fields; none of its paths leads out."""
    from p2psync.engine.description import read_description

    with standing("engine.json", data) as path:
        assert read_description(path.parent).parts


@target
def probe_json(data: bytes) -> None:
    """probe.json likewise."""
    from p2psync.engine.probe import read_probe

    with standing("probe.json", data) as path:
        assert read_probe(path).expected
