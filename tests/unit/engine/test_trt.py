"""A session of TensorRT, with the library and the GPU played: what is bound where, when plans are built, what is freed.

Only the border to the library is played, in numpy; that its calls are those of the library is what test_plans.py
shows of building, and the contract suite of running, on a machine that has one.
"""

import gc

import numpy as np
import pytest

from p2psync.engine.cuda import Buffer
from p2psync.engine.description import Tensor
from p2psync.engine.plans import Border
from p2psync.engine.trt import Kept, TrtSession
from p2psync.errors import UnsupportedModelError

BORDER = Border(
    (Tensor("x", "float32", ("n", 4)), Tensor("scale", "float32", (1,))),
    (Tensor("y", "float32", ("n", 4)), Tensor("sum", "float32", ("n",))),
)


class PlayedDevice:
    """Device memory is a table of byte arrays by address."""

    name = "played, 1.0"
    stream = 7

    def __init__(self):
        self.memory = {}
        self.waits = 0

    def allocate(self, size_bytes):
        address = 1000 + max([0, *self.memory]) + size_bytes
        self.memory[address] = np.zeros(size_bytes, np.uint8)
        return Buffer(address, size_bytes, lambda at: self.memory.pop(at, None))

    def upload(self, array):
        buffer = self.allocate(array.nbytes)
        self.memory[buffer.address][:] = np.frombuffer(array.tobytes(), np.uint8)
        return buffer

    def download(self, buffer, shape, dtype):
        self.wait()
        return np.frombuffer(self.memory[buffer.address].tobytes(), dtype).reshape(shape).copy()

    def wait(self):
        self.waits += 1


class PlayedContext:
    """y = x * scale, and the sum of each row."""

    def __init__(self, device, good):
        self.device, self.good = device, good
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return address in self.device.memory

    def get_tensor_shape(self, name):
        rows, columns = self.shapes["x"]
        return {"y": (rows, columns), "sum": (rows,)}[name]

    def execute_async_v3(self, stream):
        assert stream == self.device.stream
        memory = self.device.memory
        x = memory[self.addresses["x"]].view(np.float32).reshape(self.shapes["x"])
        y = x * memory[self.addresses["scale"]].view(np.float32)
        memory[self.addresses["y"]].view(np.float32)[:] = y.ravel()
        memory[self.addresses["sum"]].view(np.float32)[:] = y.sum(axis=1)
        return self.good


class PlayedBuilder:
    """Loads engines whose contexts are played."""

    version = "played 1"

    def __init__(self, device, good=True, roomy=True):
        self.device, self.good, self.roomy = device, good, roomy
        self.loaded = []

    def border(self, skeleton):
        return BORDER

    def load(self, plan):
        self.loaded.append(plan)
        return self

    def create_execution_context(self):
        return PlayedContext(self.device, self.good) if self.roomy else None


def session(device=None, **how):
    device = device or PlayedDevice()
    builder = PlayedBuilder(device, **how)
    return TrtSession(builder, device, b"graph", lambda shapes: repr(sorted(shapes.items())).encode()), builder, device


def feeds(rows, seed=0):
    return {
        "x": np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32),
        "scale": np.full(1, 3, np.float32),
    }


def test_a_run_gives_all_outputs_in_graph_order():
    """Each with its own shape and type."""
    opened, _, _ = session()
    fed = feeds(3)
    y, total = opened.run(fed)
    assert np.array_equal(y, fed["x"] * 3)
    assert np.allclose(total, (fed["x"] * 3).sum(axis=1))


def test_each_size_has_a_plan_and_the_first_makes_room():
    """A plan is loaded once for each size; beyond four, the one that was loaded first goes."""
    opened, builder, _ = session()
    for rows in (1, 2, 1, 2):
        opened.run(feeds(rows))
    assert len(builder.loaded) == 2
    for rows in (3, 4, 5, 1):
        opened.run(feeds(rows))
    assert len(builder.loaded) == 6


def test_steps_take_what_stayed_on_the_device():
    """What one step made goes into the next without coming here."""
    opened, _, device = session()
    fed = feeds(2)
    first = opened.step(fed)
    assert all(isinstance(held, Kept) for held in first)
    again = opened.step({"x": first[0], "scale": fed["scale"]})
    assert np.allclose(again[0].numpy(), fed["x"] * 9)
    assert device.waits


def test_nothing_stays_on_the_device_but_what_is_held():
    """Inputs that were uploaded for a run are freed after it, outputs with their last reader."""
    opened, _, device = session()
    held = opened.step(feeds(2))
    gc.collect()
    assert len(device.memory) == 2
    del held
    gc.collect()
    assert not device.memory


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.zeros((2, 5), np.float32)},
        {"x": np.zeros(4, np.float32)},
        {"x": np.zeros((2, 4), np.float64)},
        {"x": None},
        {"x": object()},
    ],
    ids=["width", "rank", "type", "absent", "foreign"],
)
def test_a_wrong_input_is_named(wrong):
    """The session lives on."""
    opened, _, _ = session()
    with pytest.raises(UnsupportedModelError, match="input x"):
        opened.run(feeds(2) | wrong)
    assert opened.run(feeds(2))


def test_a_failed_run_and_a_full_device_are_errors():
    """The library returns False or None, and says no more."""
    opened, _, _ = session(good=False)
    with pytest.raises(UnsupportedModelError, match="failed in a run"):
        opened.run(feeds(2))
    opened, _, _ = session(roomy=False)
    with pytest.raises(UnsupportedModelError, match="no memory"):
        opened.run(feeds(2))


def test_a_closed_session_holds_no_plan():
    """The next run would load its plan anew."""
    opened, builder, _ = session()
    opened.run(feeds(1))
    opened.close()
    opened.run(feeds(1))
    assert len(builder.loaded) == 2


@pytest.mark.parametrize(
    ("place", "answer", "message"),
    [
        ("get_tensor_shape", (-1, 4), "the shape of output y depends on values"),
        ("set_input_shape", False, "played 1 refuses tensor x"),
        ("set_tensor_address", False, "played 1 refuses tensor x"),
    ],
)
def test_what_the_library_does_not_take_ends_the_run(monkeypatch, place, answer, message):
    """A size that nobody knows would be memory of no size, and a run of unset tensors would give anything."""
    opened, _, _ = session()
    with monkeypatch.context() as playing:
        playing.setattr(PlayedContext, place, lambda *_: answer)
        with pytest.raises(UnsupportedModelError, match=message):
            opened.run(feeds(2))
    assert opened.run(feeds(2))
