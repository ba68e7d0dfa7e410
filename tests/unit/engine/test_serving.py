"""A new version takes over between requests, only after it proved itself; else the old one goes on."""

import threading
import time

import numpy as np
import pytest

from p2psync.engine import memory, probe, serving
from p2psync.engine.pointers import Pointers, Target
from p2psync.engine.serving import Serving
from p2psync.errors import IncompleteModelError, MemoryShortError, ModelError, P2PSyncError, WrongAnswerError
from tests.unit.engine.tiny_engine import change_weights, make_engine, with_probe


def published(path, seed):
    """An engine with its probe, and the target that names it."""
    engine = with_probe(make_engine(path / "fp32", seed=seed))
    return Target(str(engine), f"demo/tiny:v{seed}", f"b3:{seed}", "fp32", "ort-cpu")


@pytest.fixture
def versions(tmp_path):
    return published(tmp_path / "v1", 1), published(tmp_path / "v2", 2)


@pytest.fixture
def place(tmp_path):
    found = Serving(Pointers(tmp_path / "pointers"))
    yield found
    found.close()


def clip(place):
    with place.pipeline() as pipeline:
        return pipeline.generate("a red circle", steps=2)


def test_takes_over(place, versions):
    """Each activation answers its probe and serves from then on."""
    one, two = versions
    assert all(answer.passed for answer in place.activate(one))
    before = clip(place)
    place.activate(two)
    assert place.target == two
    assert not np.array_equal(before, clip(place))
    assert (place._pointers.current(), place._pointers.last_good()) == (two, one)


def test_nothing_active(place):
    """Without an engine, a request is refused with the way to one."""
    with pytest.raises(IncompleteModelError, match="no engine is active"), place.pipeline():
        pytest.fail("there is no engine")
    with pytest.raises(IncompleteModelError):
        place.start()


@pytest.mark.parametrize("fault", ["probe", "load", "missing", "memory", "bytes"])
def test_failed_activation_keeps_the_old(place, versions, monkeypatch, fault):
    """Wrong answers, a graph that does not load, a missing file, short memory, other bytes: the old engine goes on."""
    from pathlib import Path

    one, two = versions
    place.activate(one)
    before = clip(place)
    engine = Path(two.path)
    if fault == "probe":
        change_weights(engine, "low", lambda _name, array: array[::-1])
    elif fault == "load":
        (engine / "low.onnx").write_bytes(b"\x08\x09")
    elif fault == "missing":
        (engine / "high.safetensors").unlink()
    elif fault == "bytes":
        (engine / "high.safetensors").write_bytes((engine / "high.safetensors").read_bytes()[:-1] + b"\x7f")
    else:
        monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    with pytest.raises(ModelError) as caught:
        place.activate(two)
    assert isinstance(caught.value, {"probe": WrongAnswerError, "memory": MemoryShortError}.get(fault, ModelError))
    assert caught.value.hint
    assert place.target == one
    assert place._pointers.current() == one
    assert np.array_equal(before, clip(place))


def test_starts_with_current(place, versions, tmp_path):
    """A new process serves what was current."""
    one, two = versions
    place.activate(one)
    place.activate(two)
    again = Serving(Pointers(tmp_path / "pointers"))
    assert again.start() == two
    assert np.array_equal(clip(again), clip(place))
    again.close()


def test_starts_with_last_good(place, versions, tmp_path):
    """Where the current engine no longer answers, a new process goes back, and stays there."""
    import shutil

    one, two = versions
    place.activate(one)
    place.activate(two)
    shutil.rmtree(two.path)
    again = Serving(Pointers(tmp_path / "pointers"))
    assert again.start() == one
    assert Pointers(tmp_path / "pointers").current() == one
    again.close()
    shutil.rmtree(one.path)
    with pytest.raises(P2PSyncError):
        Serving(Pointers(tmp_path / "pointers")).start()


def test_short_memory_does_not_move_the_pointers(place, versions, tmp_path, monkeypatch):
    """Where the current engine did not fit, the last good one answers; with more memory the current one is back."""
    one, two = versions
    place.activate(one)
    place.activate(two)
    again = Serving(Pointers(tmp_path / "pointers"))
    enough = Serving._proved

    def short(self, target):
        if target == two:
            raise memory.short("low.onnx cannot be loaded")
        return enough(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Serving, "_proved", short)
        assert again.start() == one
    again.close()
    assert Pointers(tmp_path / "pointers").current() == two
    assert again.start() == two
    again.close()


def test_no_request_is_lost(place, versions, monkeypatch):
    """While a version loads slowly, requests are answered by the old one; all are answered, and none waits a second."""
    one, two = versions
    place.activate(one)
    answered, waits, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            asked = time.monotonic()
            with place.pipeline() as pipeline:
                waits.append(time.monotonic() - asked)
                pipeline.generate("a", steps=1)
                answered.append(place.target)

    check = probe.check

    def slow(pipeline, golden):
        time.sleep(1.2)
        return check(pipeline, golden)

    monkeypatch.setattr(serving, "check", slow)
    asker = threading.Thread(target=ask)
    asker.start()
    place.activate(two)
    count = len(answered)
    while len(answered) < count + 3:
        time.sleep(0.01)
    stop.set()
    asker.join()
    assert answered.count(one) > 3
    assert answered.count(two) >= 2
    assert answered == sorted(answered, key=[one, two].index)
    assert max(waits) < 1.0


def test_pointers_that_cannot_be_written(place, versions, monkeypatch):
    """When the disk refuses the switch, the old engine goes on."""
    from p2psync.errors import StoreUnwritableError

    one, two = versions
    place.activate(one)

    def refuse(_target):
        raise StoreUnwritableError("cannot write")

    monkeypatch.setattr(place._pointers, "switch", refuse)
    with pytest.raises(StoreUnwritableError):
        place.activate(two)
    assert place.target == one
    assert clip(place).shape == (9, 32, 48, 3)
