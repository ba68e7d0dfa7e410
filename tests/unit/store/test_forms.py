"""What a publish encodes: what pays, in the order of the rows, and nothing of what has nothing in common."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from p2psync import codec
from p2psync.content import Digest
from p2psync.errors import NotFoundError
from p2psync.limits import ENCODE_CHUNKS_MAX, FORM_TRIES, MIB, PART_KEEP_S, PART_PROVED_BYTES_MAX
from p2psync.manifest import Reference, SetKind, chunk_table
from p2psync.store import Store
from tests.integration.test_forms import bfloat16, write
from tests.stores import NAME, feed, make_model, publish

ELEMENTS = 6 * MIB // 2


def weights(seed, step=0.0, elements=ELEMENTS):
    values = np.random.default_rng(seed).normal(0, 0.02, elements)
    return {
        "blocks.0.weight": bfloat16(values + np.random.default_rng(99).normal(0, step, elements) if step else values)
    }


@pytest.fixture
def based(tmp_path):
    """A store with a version of six chunks."""
    with Store.open(tmp_path / "home") as store:
        publish(store, write(tmp_path / "base", weights(1)), "base")
        yield store


def rows(store, version):
    return list(store.forms(store.manifest(version.root)).rows())


def test_each_encoded_chunk_decodes_to_its_chunk(based, tmp_path):
    """What the signed rows name stands in the pack, and gives the chunk with the base that the row names."""
    folder = write(tmp_path / "tuned", weights(1, 3e-5))
    version = publish(based, folder, "tuned", bases=(Reference(NAME, "base"),))
    found = rows(based, version)
    assert {one.kind for _, one, _ in found} == {SetKind.FULL, SetKind.DELTA}
    table = chunk_table(based.manifest(version.root))
    for number, one, row in found:
        located = based.locate(row.digest)
        data = located.read()
        located.release()
        bases = [based.read_chunk(piece.digest) for piece in row.bases]
        raw = codec.decode(data, bases, table[row.chunk].length)
        assert Digest.of(raw) == table[row.chunk].digest
        assert len(data) < table[row.chunk].length
        assert (one.kind is SetKind.DELTA) == bool(bases)
        assert number >= len(table)


def test_unrelated_weights_get_no_deltas_and_are_given_up_early(based, tmp_path, monkeypatch):
    """A sibling that shares names and shapes alone costs a few tries, and is offered in full."""
    tried = []
    honest = codec.encode_delta

    def counted(raw, base, dtype):
        tried.append(len(raw))
        return honest(raw, base, dtype)

    monkeypatch.setattr(codec, "encode_delta", counted)
    monkeypatch.setattr("p2psync.store.forms.ENCODE_CHUNKS_MAX", 1)
    version = publish(based, write(tmp_path / "sibling", weights(2)), "sibling", bases=(Reference(NAME, "base"),))
    assert {one.kind for _, one, _ in rows(based, version)} == {SetKind.FULL}
    assert len(tried) == FORM_TRIES


def test_noise_is_given_up_early_and_costs_no_other_tensor_its_form(based, tmp_path, monkeypatch):
    """Of a tensor whose first chunks do not shrink, the others are not tried; the next tensor is."""
    tried = []
    honest = codec.encode_full

    def counted(raw, dtype):
        tried.append(len(raw))
        return honest(raw, dtype)

    monkeypatch.setattr(codec, "encode_full", counted)
    monkeypatch.setattr("p2psync.store.forms.ENCODE_CHUNKS_MAX", 1)
    noise = np.random.default_rng(5).integers(0, 1 << 16, ELEMENTS, np.uint16)
    version = publish(based, write(tmp_path / "noise", {"a": noise, "b": weights(3)["blocks.0.weight"]}), "noise")
    assert len(tried) == FORM_TRIES + 6
    table = chunk_table(based.manifest(version.root))
    assert sorted(table[row.chunk].length for _, _, row in rows(based, version)) == [MIB] * 6


def test_an_unchanged_chunk_gets_no_delta(based, tmp_path):
    """It is on the disk of everybody who has the base."""
    tuned = weights(1)
    tuned["blocks.0.weight"] = tuned["blocks.0.weight"].copy()
    tuned["blocks.0.weight"][:100] ^= 1
    version = publish(based, write(tmp_path / "tuned", tuned), "tuned", bases=(Reference(NAME, "base"),))
    assert [row.chunk for _, one, row in rows(based, version) if one.kind is SetKind.DELTA] == [1]


def test_a_tensor_with_another_name_is_matched_by_its_shape(based, tmp_path):
    """A rename together with a fine-tune still finds its base."""
    tuned = {"layers.0.weight": weights(1, 3e-5)["blocks.0.weight"]}
    version = publish(based, write(tmp_path / "tuned", tuned), "tuned", bases=(Reference(NAME, "base"),))
    assert sum(one.kind is SetKind.DELTA for _, one, _ in rows(based, version)) == 6


def test_the_pack_goes_with_its_version(based, tmp_path):
    """Removing a version frees its encoded chunks; those of others stay."""
    version = publish(based, write(tmp_path / "tuned", weights(1, 3e-5)), "tuned", bases=(Reference(NAME, "base"),))
    folder = based.home / "forms"
    assert len(list(folder.iterdir())) == 2
    before = based.remove(Reference(NAME, "tuned"), dry_run=True).freed_bytes
    pack = folder / f"{version.root.hex()}.pack"
    assert before > pack.stat().st_size
    gone = [row.digest for _, _, row in rows(based, version)]
    based.remove(Reference(NAME, "tuned"), dry_run=False)
    assert not pack.exists()
    assert len(list(folder.iterdir())) == 1
    assert gone
    assert all(based.locate(digest) is None for digest in gone)


def test_a_home_that_is_opened_again_still_has_them(based, tmp_path):
    """The rows in the manifest say where each one stands; a pack of another size is not used."""
    version = publish(based, write(tmp_path / "tuned", weights(1, 3e-5)), "tuned", bases=(Reference(NAME, "base"),))
    digests = [row.digest for _, _, row in rows(based, version)]
    based.close()
    with Store.open(based.home) as again:
        for digest in digests:
            located = again.locate(digest)
            assert Digest.of(located.read()) == digest
            located.release()
    pack = based.home / "forms" / f"{version.root.hex()}.pack"
    pack.write_bytes(pack.read_bytes() + b"x")
    with Store.open(based.home) as again:
        assert all(again.locate(digest) is None for digest in digests)


@pytest.fixture
def passed_on(based, tmp_path):
    """A node that pulled a version, kept three of its encoded chunks, and was closed; with the rows that it kept."""
    version = publish(based, write(tmp_path / "tuned", weights(1, 3e-5)), "tuned", bases=(Reference(NAME, "base"),))
    kept = rows(based, version)[:3]
    with Store.open(tmp_path / "node") as node:
        incoming = node.begin(NAME, based.manifest(version.root), based.tree(version.root), {0}, version.envelope)
        feed(based, incoming)
        incoming.install()
        for number, _, row in kept:
            located = based.locate(row.digest)
            assert node.keep_encoded(version.root, number, row, located.read())
            located.release()
    return tmp_path / "node", version, [row for _, _, row in kept]


def given_out(home, found):
    """Which of some encoded chunks a home that is opened anew gives out, proved."""
    with Store.open(home) as node:
        given = []
        for row in found:
            located = node.locate(row.digest)
            if located is not None:
                given.append(Digest.of(located.read()) == row.digest)
                located.release()
    return given


def test_what_a_pull_kept_is_passed_on_after_a_restart(passed_on):
    """A node that pulls by itself and serves later is as good a neighbour as one that served meanwhile."""
    home, _, kept = passed_on
    assert given_out(home, kept) == [True] * 3
    assert given_out(home, kept) == [True] * 3


def test_what_a_pull_kept_is_passed_on_as_far_as_it_proves(passed_on):
    """Nothing of it was synced: from the first record that is not whole on, it is forgotten."""
    home, version, kept = passed_on
    part = home / "forms" / f"{version.root.hex()}.part"
    data = bytearray(part.read_bytes())
    data[40 + kept[0].length + 40 + 5] ^= 1
    part.write_bytes(data)
    assert given_out(home, kept) == [True]
    part.write_bytes(data[: 40 + kept[0].length - 1])
    assert given_out(home, kept) == []
    assert not part.exists()


def test_what_a_pull_kept_goes_after_a_day_and_with_its_version(passed_on):
    """A version has spread by then; and of one that is not here nothing is given out."""
    home, version, kept = passed_on
    part = home / "forms" / f"{version.root.hex()}.part"
    old = part.stat().st_mtime - PART_KEEP_S - 60
    os.utime(part, (old, old))
    assert given_out(home, kept) == []
    assert not part.exists()
    part.write_bytes(b"x" * 100)
    (home / "manifests" / f"{version.root.hex()}.nodes").unlink()
    assert given_out(home, kept) == []
    assert not part.exists()


def test_what_a_pull_kept_goes_where_proving_it_would_take_long(passed_on):
    """A home opens in seconds: more than a bound of kept chunks is not read again, and goes."""
    home, _, kept = passed_on
    (part,) = (home / "forms").glob("*.part")
    os.truncate(part, PART_PROVED_BYTES_MAX + 1)
    assert given_out(home, kept) == []
    assert not part.exists()


class Counting(ThreadPoolExecutor):
    """A pool of one thread that remembers how many it was asked for, and the most tasks that nobody has waited for."""

    asked = 0
    waiting = 0
    most = 0

    def __init__(self, threads, **options):
        Counting.asked = threads
        super().__init__(1, **options)

    def submit(self, act, *args):
        future = super().submit(act, *args)
        Counting.waiting += 1
        Counting.most = max(Counting.most, Counting.waiting)
        result = future.result

        def fetched(timeout=None):
            Counting.waiting -= 1
            return result(timeout)

        future.result = fetched
        return future


def test_encoding_takes_no_more_threads_and_chunks_than_its_bound(based, tmp_path, monkeypatch):
    """However many processors there are, and however many chunks: what is made waits in memory for its turn."""
    monkeypatch.setattr(Counting, "most", 0)
    monkeypatch.setattr("p2psync.store.forms.ThreadPoolExecutor", Counting)
    monkeypatch.setattr(os, "cpu_count", lambda: 100 * ENCODE_CHUNKS_MAX)
    one = weights(4, elements=1 << 12)["blocks.0.weight"]
    many = {f"blocks.{number}.weight": one ^ number for number in range(ENCODE_CHUNKS_MAX + 4)}
    version = publish(based, write(tmp_path / "many", many), "many")
    assert len(rows(based, version)) == len(many)
    assert 1 < Counting.most <= ENCODE_CHUNKS_MAX
    assert 1 < Counting.asked <= ENCODE_CHUNKS_MAX


def test_the_same_files_give_the_same_version_whatever_the_threads_do(based, tmp_path):
    """What is tried depends on the order of the chunks alone: a publisher can make a version again."""
    half = weights(2)
    half["blocks.0.weight"][-MIB:] = weights(1, 3e-5)["blocks.0.weight"][-MIB:]
    folder = write(tmp_path / "half", half)
    roots = {publish(based, folder, f"t{n}", bases=(Reference(NAME, "base"),)).root for n in range(3)}
    assert len(roots) == 1


def test_a_pack_without_its_version_goes_when_the_home_is_opened(based):
    """A publish that was killed after its pack got its name leaves nothing."""
    orphan = based.home / "forms" / f"{Digest.of(b'nobody').hex()}.pack"
    orphan.write_bytes(b"x")
    based.close()
    with Store.open(based.home) as again:
        assert not orphan.exists()
        assert len(list((again.home / "forms").iterdir())) == 1


def test_forms_that_are_not_here_are_not_found(passed_on, based, tmp_path):
    """A version that names none, and one whose nodes of forms this node never asked for, are told apart."""
    _, version, _ = passed_on
    manifest, tree = based.manifest(version.root), based.tree(version.root)
    without = replace(tree, nodes={digest: node for digest, node in tree.nodes.items() if digest != manifest.forms})
    with Store.open(tmp_path / "other") as node:
        incoming = node.begin(NAME, manifest, without, {0}, version.envelope)
        feed(based, incoming)
        incoming.install()
        with pytest.raises(NotFoundError, match=f"node {manifest.forms} of the forms is not here"):
            node.forms(manifest)
        plain = publish(node, make_model(tmp_path / "plain"), "plain")
        with pytest.raises(NotFoundError, match="the version has no forms"):
            node.forms(node.manifest(plain.root))
