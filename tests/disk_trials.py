"""One change of what is on a disk, tried under every fault: old or new, never neither, never mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2psync.errors import P2PSyncError
from tests.disk_faults import Failing, Killed, Kind, PowerCut, failing, watching_power

# What a cut may leave of what was not synced, three times by lot.
KINDS = (Kind.NOTHING, Kind.NAMES, *[Kind.SOME] * 3)


def every_kind(_number: int) -> tuple[Kind, ...]:
    """All that a cut may leave, after each step."""
    return KINDS


def in_turn(number: int) -> tuple[Kind, ...]:
    """One kind after each step, for what has many of them."""
    return (KINDS[number % len(KINDS)],)


@dataclass(frozen=True)
class Trial:
    """What is tried in a folder of its own.

    ``before`` prepares the folder, ``run`` changes it, ``holds`` asserts what is so whenever that ends, and ``done``
    what is so once it succeeded. ``again`` is what its caller does after a failure; it is ``run`` if it is not named.
    """

    name: str
    before: Callable[[Path], object]
    run: Callable[[Path], object]
    holds: Callable[[Path], object]
    done: Callable[[Path], object]
    again: Callable[[Path], object] | None = None

    def repeat(self, folder: Path) -> None:
        """What follows a failure."""
        (self.again or self.run)(folder)


def each_failure(trial: Trial, room: Path, *faults: str) -> Iterator[Failing]:
    """Fail each step once, by these faults in turn; yield what failed, after all was asserted."""
    number = 0
    while True:
        number += 1
        folder = room / f"{faults[0]}-{number}"
        watch, raised = _attempt(trial, folder, number, faults[number % len(faults)])
        if watch.failed is None:
            assert raised is None
            trial.done(folder)
            return
        trial.holds(folder)
        trial.repeat(folder)
        trial.done(folder)
        yield watch


def each_cut(trial: Trial, room: Path, kinds_of: Callable[[int], tuple[Kind, ...]] = every_kind) -> Iterator[int]:
    """Cut the power after each step in these ways, and in every way at the end.

    Yields the number of the step, after all was asserted.
    """
    home = room / "home"
    _prepare(trial, home)
    left: list[tuple[int, Path]] = []

    def cut(number: int, power: PowerCut) -> None:
        for turn, kind in enumerate(kinds_of(number)):
            left.append((number, room / f"cut-{number}-{turn}-{kind.value}"))
            power.leave(left[-1][1], kind, seed=1000 * number + turn)

    with watching_power(home, cut) as power:
        trial.run(home)
        for turn, kind in enumerate(KINDS):
            after = room / f"end-{turn}"
            power.leave(after, kind, seed=turn)
            trial.done(after)
    for number, after in left:
        trial.holds(after)
        trial.repeat(after)
        trial.done(after)
        yield number


def each_failure_and_a_cut(trial: Trial, room: Path, fault: str, every: int = 1) -> Iterator[Failing]:
    """Fail each step once, or each ``every``-th; do it again, then cut the power: what was told as done is there."""
    number = 0
    while True:
        number += every
        folder = room / f"{fault}-cut-{number}"
        _prepare(trial, folder)
        with watching_power(folder, lambda _number, _power: None) as power:
            watch, _ = _attempt(trial, folder, number, fault, prepared=True)
            if watch.failed is None:
                return
            trial.repeat(folder)
            for kind in (Kind.NOTHING, Kind.SOME)[: 2 if every == 1 else 1]:
                after = room / f"{fault}-cut-{number}-{kind.value}"
                power.leave(after, kind, seed=number)
                trial.done(after)
        yield watch


def _prepare(trial: Trial, folder: Path) -> None:
    folder.mkdir(parents=True)
    trial.before(folder)


def _attempt(
    trial: Trial, folder: Path, number: int, fault: str, *, prepared: bool = False
) -> tuple[Failing, BaseException | None]:
    if not prepared:
        _prepare(trial, folder)
    raised: BaseException | None = None
    with failing(number, fault) as watch:
        try:
            trial.run(folder)
        except (P2PSyncError, Killed) as error:
            raised = error
    return watch, raised


def told(*refused: type[P2PSyncError]) -> suppress:
    """A second try may be told that the first one succeeded."""
    return suppress(*refused)
