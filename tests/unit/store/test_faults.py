"""Each durable step of each operation fails once: afterwards it is the old version or the new one, whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2psync.engine.pointers import Pointers, Target
from p2psync.errors import P2PSyncError
from p2psync.manifest import Reference
from p2psync.store import Store
from tests.disk_faults import FAULTS, Killed, Kind, PowerCut, failing, unsynced, watching_power
from tests.disk_trials import Trial, each_cut, each_failure, each_failure_and_a_cut, in_turn
from tests.stores import NAME, WEIGHTS, contents, make_model, publish, tensors_of, write_safetensors
from tests.stores import pull as bring

__all__ = ["unsynced"]

SMALL = 3_000


@dataclass
class Shop:
    """A publisher with two versions of one model, never changed by a test, and room for homes."""

    seed: Store
    first: Path
    second: Path
    room: Path

    def files(self, version: int) -> dict[str, bytes]:
        return contents(self.first if version == 1 else self.second)

    def pull(self, home: Path, version: int) -> None:
        """Bring a version to a home."""
        with Store.open(home) as node:
            bring(self.seed, node, published(self.seed, version))


def published(seed: Store, version: int):
    """What a publish of that version returned."""
    return seed.made[version]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Shop]:
    room = tmp_path_factory.mktemp("faults")
    first = small_model(room / "first", 1)
    second = small_model(room / "second", 1, {2: 9})
    with Store.open(room / "seed") as seed:
        seed.made = {1: publish(seed, first), 2: publish(seed, second)}
        yield Shop(seed, first, second, room)


def small_model(folder: Path, seed: int, changed=None) -> Path:
    """Weights of three small tensors, and two other files."""
    make_model(folder, seed)
    write_safetensors(folder / WEIGHTS, tensors_of(seed, changed, count=3, size=SMALL))
    (folder / "vocab.txt").write_bytes(b"a word\n" * 40 + repr(changed).encode())
    return folder


def check(home: Path, shop: Shop, *, at_least: int) -> set[int]:
    """Open a home as its next owner does and prove all that it lists. Returns the versions that are whole."""
    with Store.open(home) as store:
        report = store.verify(None)
        assert report.damages == ()
        found = set()
        for info in store.versions():
            version = next(n for n, made in shop.seed.made.items() if made.root == info.root)
            manifest = store.manifest(info.root)
            assert manifest is not None
            where = store.installed(NAME, info.root, range(len(manifest.files)))
            assert where is not None, "a version is listed that is not whole"
            assert contents(where) == shop.files(version)
            found.add(version)
    assert len(found) >= at_least
    return found


# Operations: each has a home as it is before, what is done, and what must hold whenever it ends.


@dataclass(frozen=True)
class Operation:
    name: str
    before: Callable[[Shop, Path], None]
    run: Callable[[Shop, Path], None]
    holds: Callable[[Shop, Path], None]
    done: Callable[[Shop, Path], None]


def empty(_shop: Shop, home: Path) -> None:
    home.mkdir()


def with_first(shop: Shop, home: Path) -> None:
    shop.pull(home, 1)


def with_both(shop: Shop, home: Path) -> None:
    shop.pull(home, 1)
    shop.pull(home, 2)


def publish_first(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        publish(store, shop.first)


def publish_second(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        publish(store, shop.second)


def publish_in_place(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        publish(store, shop.first, in_place=True)


def pull_first(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        bring(shop.seed, store, published(shop.seed, 1))


def pull_second(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        bring(shop.seed, store, published(shop.seed, 2))


def remove_first(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        store.remove(Reference(NAME, "latest", shop.seed.made[1].root), dry_run=False)
        store.prune(dry_run=False)


def export_first(shop: Shop, home: Path) -> None:
    with opened(home) as store:
        manifest = store.manifest(shop.seed.made[1].root)
        store.export(NAME, shop.seed.made[1].root, set(range(len(manifest.files))), home.with_suffix(".out"))


def opened(home: Path) -> Store:
    return Store.open(home)


def something(shop: Shop, home: Path) -> None:
    check(home, shop, at_least=0)


def keeps_one(shop: Shop, home: Path) -> None:
    check(home, shop, at_least=1)


def keeps_the_second(shop: Shop, home: Path) -> None:
    assert 2 in check(home, shop, at_least=1)


def exported_or_not(shop: Shop, home: Path) -> None:
    """The home is untouched, and the target is not there or whole."""
    check(home, shop, at_least=1)
    out = home.with_suffix(".out")
    assert not out.exists() or contents(out) == shop.files(1)


def has(*versions: int) -> Callable[[Shop, Path], None]:
    def holds(shop: Shop, home: Path) -> None:
        assert check(home, shop, at_least=1) == set(versions)

    return holds


OPERATIONS = (
    Operation("publish", empty, publish_first, something, has(1)),
    Operation("publish in place", empty, publish_in_place, something, has(1)),
    Operation("publish an update", with_first, publish_second, keeps_one, has(1, 2)),
    Operation("pull", empty, pull_first, something, has(1)),
    Operation("pull an update", with_first, pull_second, keeps_one, has(1, 2)),
    Operation("remove and prune", with_both, remove_first, keeps_the_second, has(2)),
    Operation("export", with_first, export_first, exported_or_not, exported_or_not),
)


def attempt(operation: Operation, shop: Shop, home: Path, number: int, fault: str):
    """Run an operation on a fresh home whose disk fails once; returns what failed, and what was raised."""
    for path in (home, home.with_suffix(".out")):
        shutil.rmtree(path, ignore_errors=True)
    operation.before(shop, home)
    raised = None
    with failing(number, fault) as watch:
        try:
            operation.run(shop, home)
        except (P2PSyncError, Killed) as error:
            raised = error
    return watch, raised


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_step_fails_once(operation: Operation, shop: Shop, tmp_path: Path) -> None:
    """Old or new, never neither and never mixed; the same operation, run again, succeeds. Faults take turns."""
    fail_each_step(operation, shop, tmp_path / "home", lambda number: FAULTS[number % len(FAULTS)])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_step_fails_in_every_way(operation: Operation, fault: str, shop: Shop, tmp_path: Path) -> None:
    """The same with each fault at each step."""
    fail_each_step(operation, shop, tmp_path / "home", lambda _number: fault)


def fail_each_step(operation: Operation, shop: Shop, home: Path, fault_of: Callable[[int], str]) -> None:
    number = 0
    while True:
        number += 1
        watch, raised = attempt(operation, shop, home, number, fault_of(number))
        if watch.failed is None:
            break
        operation.holds(shop, home)
        # What was removed before the fault cannot be removed again.
        with suppress(*[P2PSyncError] * operation.name.startswith("remove")):
            operation.run(shop, home)
        operation.done(shop, home)
    assert raised is None
    assert number > 5


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_failed_sync_is_never_repeated_as_a_success(operation: Operation, shop: Shop, tmp_path: Path) -> None:
    """A sync that failed ends the operation, and the same descriptor is not synced again."""
    home = tmp_path / "home"
    total = attempt(operation, shop, home, 0, "broken")[0].count
    syncs = 0
    for number in range(1, total + 1):
        watch, raised = attempt(operation, shop, home, number, "broken")
        if watch.failed is None or watch.failed[0] not in ("sync", "sync_data"):
            continue
        syncs += 1
        assert raised is not None, f"step {number}: a failed {watch.failed[0]} went unnoticed"
        again = [step for step in watch.after if step[0] in ("sync", "sync_data") and step[1] == watch.failed[1]]
        assert again == [], f"step {number}: the same descriptor was synced again"
    assert syncs


AT_HOME = [operation for operation in OPERATIONS if operation.name not in ("export", "publish in place")]


@pytest.mark.parametrize("operation", AT_HOME, ids=lambda operation: operation.name)
def test_a_power_cut_after_any_step(operation: Operation, shop: Shop, tmp_path: Path) -> None:
    """What was never synced is lost, or in part, or names came through without bytes: old or new all the same."""
    kinds = tuple(Kind)
    cut_each_step(operation, shop, tmp_path, lambda number: (kinds[number % len(kinds)],))


@pytest.mark.slow
@pytest.mark.parametrize("operation", AT_HOME, ids=lambda operation: operation.name)
def test_a_power_cut_of_every_kind_after_any_step(operation: Operation, shop: Shop, tmp_path: Path) -> None:
    """The same with each kind of cut after each step, and eight ways in which some of it survives."""
    cut_each_step(operation, shop, tmp_path, lambda _number: (Kind.NOTHING, Kind.NAMES, *[Kind.SOME] * 8))


def cut_each_step(operation: Operation, shop: Shop, room: Path, kinds_of: Callable[[int], tuple[Kind, ...]]) -> None:
    home = room / "home"
    operation.before(shop, home)
    left: list[Path] = []

    def cut(number: int, power: PowerCut) -> None:
        for turn, kind in enumerate(kinds_of(number)):
            left.append(room / f"cut-{number}-{turn}-{kind.value}")
            power.leave(left[-1], kind, seed=1000 * number + turn)

    with watching_power(home, cut):
        operation.run(shop, home)
    operation.done(shop, home)
    assert len(left) > 5
    for after in left:
        operation.holds(shop, after)
        with suppress(*[P2PSyncError] * operation.name.startswith("remove")):
            operation.run(shop, after)
        operation.done(shop, after)
        shutil.rmtree(after)


@pytest.mark.parametrize("fault", ["broken", "killed"])
@pytest.mark.parametrize("operation", AT_HOME[:3], ids=lambda operation: operation.name)
def test_what_succeeds_after_a_fault_survives_a_power_cut(
    operation: Operation, fault: str, shop: Shop, tmp_path: Path
) -> None:
    """A step that failed, or that a killed process did not come to, is not taken for done by the next owner."""
    assert len(list(each_failure_and_a_cut(trial_of(operation, shop), tmp_path, fault, every=5))) > 5


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["broken", "killed"])
@pytest.mark.parametrize("operation", AT_HOME, ids=lambda operation: operation.name)
def test_what_succeeds_after_any_fault_survives_a_power_cut(
    operation: Operation, fault: str, shop: Shop, tmp_path: Path
) -> None:
    """The same at every step."""
    assert len(list(each_failure_and_a_cut(trial_of(operation, shop), tmp_path, fault))) > 5


def trial_of(operation: Operation, shop: Shop) -> Trial:
    """An operation in a home below the folder that is watched: the home's own name may be lost, too."""

    def again(room: Path) -> None:
        with suppress(*[P2PSyncError] * operation.name.startswith("remove")):
            operation.run(shop, room / "home")

    return Trial(
        operation.name,
        lambda room: operation.before(shop, room / "home"),
        lambda room: operation.run(shop, room / "home"),
        lambda room: operation.holds(shop, room / "home"),
        lambda room: operation.done(shop, room / "home"),
        again,
    )


def export_trial(shop: Shop, *, over: bool) -> Trial:
    """An export to nowhere yet, or over what the other version left there."""

    def export(room: Path, version: int) -> None:
        with opened(room / "home") as store:
            root = shop.seed.made[version].root
            store.export(NAME, root, range(len(store.manifest(root).files)), room / "out")

    def before(room: Path) -> None:
        with_both(shop, room / "home")
        if over:
            export(room, 1)

    def old_or_new(room: Path) -> None:
        """Each file is one or the other; where nothing stood, all or none are there."""
        check(room / "home", shop, at_least=2)
        if not (room / "out").exists():
            assert not over
            return
        found, first, second = contents(room / "out"), shop.files(1), shop.files(2)
        named = {path: data for path, data in found.items() if not path.startswith(".p2psync-export-")}
        assert named.keys() == second.keys()
        assert all(data in ([first[path], second[path]] if over else [second[path]]) for path, data in named.items())

    def done(room: Path) -> None:
        check(room / "home", shop, at_least=2)
        assert shop.files(2).items() <= contents(room / "out").items()

    return Trial("export", before, lambda room: export(room, 2), old_or_new, done)


@pytest.mark.parametrize("over", [False, True], ids=["to nowhere yet", "over another"])
def test_every_step_of_an_export_fails_once(over: bool, shop: Shop, tmp_path: Path) -> None:
    """What stood there stays, file by file, until the new one is whole; the same again succeeds."""
    assert len(list(each_failure(export_trial(shop, over=over), tmp_path, *FAULTS))) > 10


@pytest.mark.parametrize("over", [False, True], ids=["to nowhere yet", "over another"])
def test_a_power_cut_after_any_step_of_an_export(over: bool, shop: Shop, tmp_path: Path) -> None:
    """The same, of what reached the disk; and what was told as exported is there."""
    assert len(list(each_cut(export_trial(shop, over=over), tmp_path, in_turn))) > 10


@pytest.mark.parametrize("fault", FAULTS)
def test_every_step_of_an_activation_fails_once(fault: str, tmp_path: Path) -> None:
    """The pointer names the old engine or the new one, and the one before it stays last-good."""
    one, two = (target(tmp_path, number) for number in (1, 2))
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"pointers-{number}"
        Pointers(folder).switch(one)
        with failing(number, fault) as watch, suppress(P2PSyncError, Killed):
            Pointers(folder).switch(two)
        found = Pointers(folder)
        assert found.current() in (one, two)
        assert found.usable() in (one, two)
        if watch.failed is None:
            break
        if found.current() == two:
            assert found.last_good() == one
        found.switch(two)
        assert (found.current(), found.last_good()) == (two, one)
    assert number > 5


def target(room: Path, number: int) -> Target:
    engine = room / f"engine-{number}"
    engine.mkdir(exist_ok=True)
    (engine / "engine.json").write_text("{}")
    return Target(**{key: str(engine) if key == "path" else f"{key} {number}" for key in Target.__slots__})
