"""Readers of what a home keeps for itself: a disk that rots, an editor or another p2psync may have changed it."""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from p2psync.content import Digest
from p2psync.errors import P2PSyncError
from tests.fuzz.registry import standing, target

_ROOT: Final = Digest(bytes(range(32)))
_NAME: Final = "acme/wan"


@target
def trust_file(data: bytes) -> None:
    """Which patterns of names are bound to which keys."""
    from p2psync.trust.policy import TrustStore, check_pattern

    with standing("trust.json", data) as path:
        store = TrustStore(path.parent)
        for entry in store.entries():
            check_pattern(entry.pattern)
            assert entry.matches(entry.pattern.removesuffix("*"))
        covering = [entry.key for entry in store.entries() if entry.matches(_NAME)]
        assert not covering or store.key_for(_NAME) in covering


@target
def floors_file(data: bytes) -> None:
    """How far each tag has come: what cannot be read is an error, never a fresh start."""
    from p2psync.trust.policy import TrustStore

    with standing("floors.json", data) as path:
        floor = TrustStore(path.parent).floor(_NAME, "latest")
        assert floor is None or floor.version >= 0
        assert json.loads(data).keys() == {"floors", "format"}


@target
def key_file(data: bytes) -> None:
    """A secret key: one text for each."""
    from p2psync.trust.keyring import Keyring

    with standing("me.key", data) as path:
        key = Keyring(path.parent).signing_key("me")
        assert data == b"p2psync-secret-ed25519:%s\n" % bytes(key).hex().encode()


@target
def control_request(data: bytes) -> None:
    """What a caller of the control socket sends: whatever it is, one line goes back."""
    from p2psync.transport import local

    async def answered() -> dict[str, Any]:
        async def handler(verb: str, args: dict[str, Any], _emit: object) -> dict[str, Any]:
            assert isinstance(verb, str)
            assert isinstance(args, dict)
            return {"verb": verb}

        server = local.LocalServer(Path("/nowhere"), handler)
        reader = asyncio.StreamReader(limit=4096)
        reader.feed_data(data)
        # A caller that waits for its answer has sent one line and keeps its side open.
        if b"\n" not in data:
            reader.feed_eof()
        return await server._outcome(reader, SimpleNamespace())  # type: ignore[arg-type]

    with suppress(ConnectionResetError):
        line = local._line(asyncio.run(answered()))
        assert line.endswith(b"\n")
        assert local._parse(line).keys() in ({"result"}, {"error"})


@target
def control_answer(data: bytes) -> None:
    """What the process behind the socket answers: events, then a result, or an error of ours."""
    from p2psync.transport import local

    with suppress(ConnectionResetError, ValueError):
        answer = local._parse(data)
        if "event" not in answer and "result" not in answer:
            error = local._heard(answer.get("error"))
            assert isinstance(error, P2PSyncError)
            assert isinstance(error.message, str)
            assert error.hint is None or isinstance(error.hint, str)
            assert local._line({"error": local._told(error)})


@target
def pointer_file(data: bytes) -> None:
    """Which engine runs: what is damaged counts as none."""
    from p2psync.engine.pointers import Pointers

    with standing("current", data) as path:
        pointers = Pointers(path.parent)
        assert pointers.usable() is None
        assert pointers.last_good() is None


@target
def generations_log(data: bytes) -> None:
    """The log of generations, as a crash left it."""
    from p2psync.engine.generations import last

    with standing("generations.jsonl", data) as path:
        found = last(path, 5)
        assert len(found) <= 5
        assert all(isinstance(one, dict) for one in found)


class _Weighed:
    """A description whose weights have a size, though no file of them stands anywhere."""

    def __init__(self, described: object) -> None:
        self._described = described

    def __getattr__(self, name: str) -> Any:
        return getattr(self._described, name)

    def bytes_of(self, _part: str) -> int:
        return 1 << 20


@target
def engine_plan(data: bytes) -> None:
    """What an engine says that it costs, and the estimate that is made of it."""
    from p2psync.engine.description import read_description
    from p2psync.engine.plan import Size, plan
    from p2psync.engine.shapes import of_engine

    with standing("engine.json", data) as path:
        shapes = of_engine(_Weighed(read_description(path.parent)))  # type: ignore[arg-type]
        assert plan(shapes, Size(480, 832, 81, 4, guided=True), "ort-cpu", rate=1e12, available_bytes=1 << 34).record()


@target
def checkpoint_configs(data: bytes) -> None:
    """The four config files of a checkpoint, with a zero byte between them."""
    from p2psync.engine.plan import Size, plan
    from p2psync.engine.shapes import of_checkpoint

    index, *others = (*data.split(b"\x00"), b"", b"", b"")[:4]
    with standing("model_index.json", index) as path:
        for name, text in zip(("transformer", "text_encoder", "vae"), others, strict=True):
            (path.parent / name).mkdir()
            (path.parent / name / "config.json").write_bytes(text)
        shapes = of_checkpoint(path.parent)
        assert plan(shapes, Size(480, 832, 81, 4, guided=False), "ort-cuda", rate=1e12, available_bytes=None).record()


@target
def journal(data: bytes) -> None:
    """The journal of a pull, as a crash left it; and with the checksums of its records mended, which no chance does."""
    from p2psync.store.journal import journalled, read_journal

    root, selection = (Digest(data[at : at + 32].ljust(32, b"\x00")) for at in (8, 40))
    for text in (data, _with_checksums(data)):
        with standing("journal", text) as path:
            found = read_journal(path, root, selection)
            assert found.identities is None or all(identity.size >= 0 for identity in found.identities)
            assert journalled(path, root) == found.chunks
            assert read_journal(path, Digest(bytes(32)), selection).chunks <= found.chunks


def _with_checksums(data: bytes) -> bytes:
    """The same with the right checksum behind each record, as far as there are records."""
    parts, at = [data[:72]], 72
    while at + 5 <= len(data):
        kind, count = struct.unpack_from("<BI", data, at)
        end = at + 5 + count * {1: 4, 2: 40}.get(kind, 1)
        record = data[at:end]
        parts.append(record + struct.pack("<I", zlib.crc32(record)))
        at = end + 4
    return b"".join(parts)


@target
def nodes_file(data: bytes) -> None:
    """The nodes of a version in one file: what does not prove is as good as absent."""
    from p2psync.store.home import Home
    from p2psync.store.manifests import Manifests

    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.manifests.mkdir()
        length = int.from_bytes(data[5:9], "little")
        root = Digest.of(data[9 : 9 + length])
        home.nodes(root).write_bytes(data)
        tree = Manifests(home, SimpleNamespace()).read(root)  # type: ignore[arg-type]
        assert tree is None or tree.root == root in tree.nodes


@target
def kept_pack(data: bytes) -> None:
    """The encoded chunks that a pull kept, as a crash left them: only what proves is given out."""
    from p2psync.store.encoded import EncodedPacks
    from p2psync.store.home import Home

    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.forms.mkdir()
        path = home.forms / f"{_ROOT.hex()}.part"
        path.write_bytes(data)
        packs = EncodedPacks(home, SimpleNamespace(get=lambda _root: True), SimpleNamespace())  # type: ignore[arg-type]
        packs.open(write=True)
        assert path.exists() == bool(packs.numbers(_ROOT))
        for offset, length in packs._packs[_ROOT].places.values() if path.exists() else ():
            assert data[offset - 32 : offset] == Digest.of(data[offset : offset + length])
