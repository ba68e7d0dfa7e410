"""Each step by which keys, bindings and floors are written fails once, or is the last before the power fails.

A secret key is the one thing that nobody can bring again: what was told as made is there, whole, after any fault.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2psync.errors import NotFoundError, StoreUnwritableError, UsageError
from p2psync.trust import Keyring, TrustStore
from tests.disk_faults import FAULTS, failing, unsynced
from tests.disk_trials import Trial, each_cut, each_failure, each_failure_and_a_cut, told
from tests.manifests import PUBLISHER, STRANGER, sample_head

__all__ = ["unsynced"]

KEY, OTHER = PUBLISHER.verify_key, STRANGER.verify_key
FIRST = sample_head()
SECOND = replace(FIRST, version=FIRST.version + 1)
WHERE = FIRST.name, FIRST.tag


def ring(folder: Path) -> Keyring:
    return Keyring(folder / "home" / "keys")


def trust(folder: Path) -> TrustStore:
    return TrustStore(folder / "home" / "trust")


def nothing(_folder: Path) -> None:
    """Where nothing stands yet."""


def one_key(folder: Path) -> None:
    (folder / "known").write_text(str(ring(folder).new("old")))
    (folder / "known").replace(folder.with_name("known"))


def no_half_key(folder: Path) -> None:
    """Every key that is listed is whole, and so is one that was there before."""
    for name in ring(folder).names():
        ring(folder).signing_key(name)
    if (folder / "home" / "keys" / "old.key").exists():
        assert str(ring(folder).verify_key("old")) == folder.with_name("known").read_text()


def new_again(folder: Path) -> None:
    with told(UsageError):
        ring(folder).new("new")


def has_new(folder: Path) -> None:
    """The key is there and whole, nothing else is, and no secret lies about in a half-written file."""
    key = ring(folder).signing_key("new")
    key.verify_key.verify(b"x", key.sign(b"x"))
    no_half_key(folder)


def leaves_no_scratch(folder: Path) -> None:
    has_new(folder)
    assert [path.name for path in (folder / "home" / "keys").iterdir() if path.name.startswith(".")] == []


def bound(folder: Path) -> None:
    trust(folder).add("acme/*", KEY)
    trust(folder).raise_floor(FIRST)


def as_before_or_bound(folder: Path) -> None:
    assert [entry.key for entry in trust(folder).entries()] in ([], [KEY])


def rotate(folder: Path) -> None:
    """Another key for the same names."""
    with told(NotFoundError):
        trust(folder).remove("acme/*")
    trust(folder).add("acme/*", OTHER)


def rotated(folder: Path) -> None:
    assert [entry.key for entry in trust(folder).entries()] == [OTHER]
    assert trust(folder).floor(*WHERE).version == FIRST.version


def one_owner_and_the_floor(folder: Path) -> None:
    """The old key, none, or the new one; never both, and the floor that was reached stays."""
    assert [entry.key for entry in trust(folder).entries()] in ([KEY], [], [OTHER])
    assert trust(folder).floor(*WHERE).version == FIRST.version


def raised(folder: Path) -> None:
    assert trust(folder).floor(*WHERE).version == SECOND.version


def old_or_new_floor(folder: Path) -> None:
    assert trust(folder).floor(*WHERE).version in (FIRST.version, SECOND.version)


TRIALS = (
    Trial("first key", nothing, lambda f: ring(f).new("new"), no_half_key, has_new, new_again),
    Trial("another key", one_key, lambda f: ring(f).new("new"), no_half_key, has_new, new_again),
    Trial(
        "first binding",
        nothing,
        lambda f: trust(f).add("acme/*", KEY),
        as_before_or_bound,
        lambda f: trust(f).key_for("acme/x"),
    ),
    Trial("rotation", bound, rotate, one_owner_and_the_floor, rotated),
    Trial("floor", bound, lambda f: trust(f).raise_floor(SECOND), old_or_new_floor, raised),
)


def by_name(trial: Trial) -> str:
    return trial.name


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", TRIALS, ids=by_name)
def test_every_step_fails_once(trial: Trial, fault: str, tmp_path: Path) -> None:
    """Old or new; the same again succeeds."""
    assert len(list(each_failure(trial, tmp_path, fault))) > 4


@pytest.mark.parametrize("trial", TRIALS, ids=by_name)
def test_a_power_cut_after_any_step(trial: Trial, tmp_path: Path) -> None:
    """Old or new; and what was told as done is there."""
    assert len(list(each_cut(trial, tmp_path))) > 20


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", TRIALS, ids=by_name)
def test_what_succeeds_after_a_fault_survives_a_power_cut(trial: Trial, fault: str, tmp_path: Path) -> None:
    """A step that failed, or that a killed process did not come to, is not taken for done by the next one."""
    assert len(list(each_failure_and_a_cut(trial, tmp_path, fault))) > 4


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_key_that_is_told_as_not_made_is_not_there(fault: str, tmp_path: Path) -> None:
    """Nobody finds a key of which its maker heard that the disk refused it."""
    refused, number = 0, 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        with failing(number, fault) as watch:
            try:
                ring(folder).new("new")
                names = ["new"]
            except StoreUnwritableError:
                names = []
                refused += 1
        assert ring(folder).names() == names
        if watch.failed is None:
            break
    assert refused > 4


def test_what_a_killed_maker_left_is_removed(tmp_path: Path) -> None:
    """A half-written file holds a secret, or half of one: making the key again takes it away."""
    made = Trial("a key", nothing, lambda f: ring(f).new("new"), nothing, leaves_no_scratch, None)
    left = 0
    for watch in each_failure(replace(made, again=new_again), tmp_path, "killed"):
        left += watch.failed is not None
    assert left > 4
