"""Encode the chunks of a version that is being published: in full, and against each base that is here.

Chunks are read where they stand, encoded on all cores, a bounded number at a time, and written to one pack in the
order of the rows. Of the ways to encode a chunk against its bases each set keeps its own; a form that does not pay is
left out, and then the chunk itself is what travels.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from p2psync import codec, disk
from p2psync.content import BlobKind, Digest
from p2psync.limits import ENCODE_CHUNKS_MAX, FORM_GAIN_MIN, FORM_TRIES
from p2psync.manifest import Blob, Chunk, Encoded, Manifest, Piece, SetKind, build_forms, chunk_table, match_tensors
from p2psync.store.locate import read_installed
from p2psync.store.opened import OpenHome
from p2psync.store.residuals import Residual, residuals
from p2psync.store.values import Meter, Progress

# What a row of an encoded chunk costs a reader, at most, beside the chunk itself.
_ROW_BYTES = 72
# No form of anything is shorter: its code, its layout, and a byte that says which value all elements have.
_FORM_BYTES_MIN = 3

# The bytes that stand where a chunk was read.
Standing = Callable[[Chunk], bytes]


@dataclass(frozen=True, slots=True)
class Forms:
    """What a publish made: ``nodes`` to sign, ``top`` that the root names, and how many encoded chunks there are."""

    nodes: dict[Digest, bytes]
    top: Digest | None
    encoded: int
    raw_bytes: int
    encoded_bytes: int


@dataclass(frozen=True, slots=True)
class _Job:
    """One chunk to encode, with the chunk of the base that stands at its place."""

    chunk: Chunk
    dtype: str
    tensor: int
    base: Digest | None = None
    residual: Residual | None = None

    @property
    def bases(self) -> tuple[Piece, ...]:
        """What decoding needs."""
        if self.residual is not None:
            return self.residual.codes, self.residual.scales
        return () if self.base is None else (Piece(self.base),)


def make_forms(opened: OpenHome, manifest: Manifest, read: Standing, pack: Path, progress: Progress) -> Forms:
    """Encode a version into ``pack``, which is synced when this returns.

    Args:
        opened: Where the bases are.
        manifest: The version, which names no forms yet. Deltas are made from those of its bases that are here.
        read: Gives the bytes that stand where one of its chunks was read, proved by nobody.
        pack: The file to make.
        progress: Told about encoding.

    Raises:
        OSError: the disk refuses.
    """
    table = chunk_table(manifest)
    owners = _owners(manifest)
    full = [_Job(chunk, *owners[chunk.digest]) for chunk in table if chunk.digest in owners]
    plans: list[tuple[SetKind, Digest | None, list[_Job]]] = [(SetKind.FULL, None, full)]
    for base in manifest.bases:
        known = opened.manifests.get(base)
        if known is not None:
            plans.append((SetKind.DELTA, base, _delta_jobs(manifest, known, table)))
    by_digest = {chunk.digest: chunk for chunk in table}
    plans.append((SetKind.RESIDUAL, None, _residual_jobs(manifest, by_digest)))
    meter = Meter(progress, sum(job.chunk.length for _, _, jobs in plans for job in jobs), "encoding")
    made = []
    threads = min(ENCODE_CHUNKS_MAX, os.cpu_count() or 1)
    with open(pack, "xb", buffering=0) as out, ThreadPoolExecutor(threads, thread_name_prefix="p2psync-encode") as pool:
        work = _Encoding(opened, read, by_digest, meter)
        for kind, of, jobs in plans:
            rows = []
            for row, data in work.run(pool, jobs):
                disk.write_all(out.fileno(), data)
                rows.append(row)
            made.append((kind, of, sum(table[row.chunk].length for row in rows), rows))
        disk.sync(out.fileno())
    meter.tell()
    nodes, top, count = build_forms(made)
    every = [row for _, _, _, rows in made for row in rows]
    return Forms(nodes, top, count, sum(table[r.chunk].length for r in every), sum(r.length for r in every))


def _owners(manifest: Manifest) -> dict[Digest, tuple[str, int]]:
    """The dtype and the number of the tensor of each chunk; of a chunk that stands in several, of the first."""
    found: dict[Digest, tuple[str, int]] = {}
    for number, blob in enumerate(_tensors(manifest)):
        for digest, _ in blob.chunks.walk(blob.length):
            found.setdefault(digest, (blob.dtype, number))
    return found


def _delta_jobs(manifest: Manifest, base: Manifest, table: Sequence[Chunk]) -> list[_Job]:
    """The chunks that changed, each with the one that stands at its place in the matching tensor of the base."""
    here = {digest for blob in _blobs(base) for digest, _ in blob.chunks.walk(blob.length)}
    by_digest = {chunk.digest: chunk for chunk in table}
    jobs: dict[int, _Job] = {}
    for number, (blob, before) in enumerate(match_tensors(manifest, base)):
        for (digest, length), (old, old_length) in zip(
            blob.chunks.walk(blob.length), before.chunks.walk(before.length), strict=False
        ):
            chunk = by_digest[digest]
            if digest not in here and length == old_length:
                jobs.setdefault(chunk.index, _Job(chunk, blob.dtype, number, old))
    return [jobs[index] for index in sorted(jobs)]


def _residual_jobs(manifest: Manifest, table: Mapping[Digest, Chunk]) -> list[_Job]:
    """The chunks that a quantised variant tells most of."""
    jobs: dict[int, _Job] = {}
    for one in residuals(manifest, table):
        jobs.setdefault(one.chunk.index, _Job(one.chunk, one.dtype, 0, residual=one))
    return [jobs[index] for index in sorted(jobs)]


class _Encoding:
    """Encodes chunks on several threads; what comes out is in order."""

    def __init__(self, opened: OpenHome, read: Standing, table: Mapping[Digest, Chunk], meter: Meter) -> None:
        self._opened = opened
        self._read = read
        self._table = table
        self._meter = meter
        self._full_length: dict[int, int] = {}
        # Of each tensor: how many chunks were begun, how many are done, and whether any was worth it.
        self._begun: Counter[int] = Counter()
        self._tried: Counter[int] = Counter()
        self._worth: set[int] = set()

    def run(self, pool: ThreadPoolExecutor, jobs: Iterable[_Job]) -> Iterator[tuple[Encoded, bytes]]:
        """Each chunk whose form pays, as a row and its bytes."""
        turns = deque(jobs)
        self._begun.clear()
        self._tried.clear()
        self._worth.clear()
        begun: deque[tuple[_Job, Future[bytes | None] | None]] = deque()
        while turns or begun:
            while turns and len(begun) < ENCODE_CHUNKS_MAX and self._may_begin(turns[0]):
                begun.append((turns[0], self._begin(pool, turns.popleft())))
            job, future = begun.popleft()
            data = future.result() if future is not None else None
            self._tried[job.tensor] += 1
            if data is not None:
                self._worth.add(job.tensor)
            self._meter.advance(job.chunk.length)
            if data is not None:
                yield Encoded(job.chunk.index, data[0], Digest.of(data), len(data), job.bases), data

    def _may_begin(self, job: _Job) -> bool:
        """Whether enough is known of a tensor: its first chunks tell whether the others are tried at all.

        So what is tried depends on the order alone, never on which thread was faster, and the same files give the same
        version.
        """
        first = self._begun[job.tensor] < FORM_TRIES
        return job.residual is not None or first or self._tried[job.tensor] >= FORM_TRIES

    def _begin(self, pool: ThreadPoolExecutor, job: _Job) -> Future[bytes | None] | None:
        """Encode a chunk, unless its tensor was seen to be noise, or to have little in common with the base's.

        Finding out that nothing is gained takes longer than anything else in a publish.
        """
        self._begun[job.tensor] += 1
        hopeless = self._begun[job.tensor] > FORM_TRIES and job.tensor not in self._worth
        if (job.residual is None and hopeless) or self._longest(job) < _FORM_BYTES_MIN:
            return None
        return pool.submit(self._encode, job)

    def _longest(self, job: _Job) -> int:
        """How long a form may be that pays, row included, beside the shortest that is there already."""
        best = self._full_length.get(job.chunk.index, job.chunk.length)
        return int(best * (1 - FORM_GAIN_MIN)) - _ROW_BYTES

    def _encode(self, job: _Job) -> bytes | None:
        raw = self._read(job.chunk)
        if len(raw) != job.chunk.length:
            return None
        if job.residual is not None:
            data = job.residual.encode(raw, self._table, self._proved)
        elif job.base is not None:
            data = self._delta(job, raw)
        else:
            data = codec.encode_full(raw, job.dtype)
        # Only what is kept has to be proved: of what cannot be encoded nothing else is done with the bytes.
        if data is None or len(data) > self._longest(job) or Digest.of(raw) != job.chunk.digest:
            return None
        if job.base is None and job.residual is None:
            self._full_length[job.chunk.index] = len(data)
        return data

    def _proved(self, chunk: Chunk) -> bytes | None:
        raw = self._read(chunk)
        return raw if Digest.of(raw) == chunk.digest else None

    def _delta(self, job: _Job, raw: bytes) -> bytes | None:
        before = read_installed(self._opened, job.base) if job.base is not None else None
        return codec.encode_delta(raw, before, job.dtype) if before is not None else None


def _blobs(manifest: Manifest) -> Iterator[Blob]:
    return (blob for file in manifest.files for blob in file.blobs)


def _tensors(manifest: Manifest) -> Iterator[Blob]:
    return (blob for blob in _blobs(manifest) if blob.kind is BlobKind.TENSOR)
