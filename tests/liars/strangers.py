"""Simulated nodes that say they hold everything and answer badly, one class per behaviour.

They live in a world of tests/simulation, in virtual time: the same session that a real node runs decides about them.
``honest`` says whether banning one would be a mistake: what is slow or breaks off is no liar.
"""

from __future__ import annotations

from typing import ClassVar

from tests.simulation.runs import Answer
from tests.simulation.strangers import Stranger
from tests.simulation.world import LAN, World


class Boaster(Stranger):
    """Says that it holds every chunk. ``rule`` is how it answers, ``rate`` the bytes per second of its port."""

    rule: ClassVar[Answer] = Answer.GOOD
    rate: ClassVar[float] = LAN
    fair: ClassVar[bool] = True

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, lambda _chunk: self.rule, port=self.rate, honest=self.fair)


class WrongBytes(Boaster):
    """C 30 and C 33: other bytes than those that were asked for."""

    rule = Answer.BAD
    fair = False


class Empty(Boaster):
    """C 34: does not have what it says."""

    rule = Answer.ABSENT
    fair = False


class Trickling(Boaster):
    """C 35: a byte a second."""

    rate = 1.0


class Unspeaking(Boaster):
    """C 36: takes requests and says nothing."""

    rule = Answer.SILENT


class Breaking(Boaster):
    """C 37: breaks off shortly before the end, each time."""

    rule = Answer.RESET
