"""GPU memory: what goes up comes down, what is full is said, and a machine without one says what to install."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from p2psync.engine import cuda
from p2psync.engine.cuda import Device
from p2psync.errors import BackendUnavailableError, MemoryShortError, UnsupportedModelError


@pytest.fixture
def device():
    try:
        return Device()
    except BackendUnavailableError as error:
        pytest.skip(error.message)


def test_a_machine_without_a_gpu_is_told_what_to_install():
    """No library, no driver or no device: one error, with a hint."""
    try:
        found = Device()
    except BackendUnavailableError as caught:
        why = caught
    else:
        pytest.skip(f"there is one: {found.name}")
    assert why.hint == cuda.HINT
    assert "cuda" in why.message.lower()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int8", "bool"])
def test_what_goes_up_comes_down(device, dtype):
    """Every type, in C order, empty arrays and views too."""
    random = np.random.default_rng(1)
    for array in (
        random.integers(0, 2, (3, 5, 7)).astype(dtype),
        random.integers(0, 2, (8, 6)).astype(dtype)[::2].T,
        np.zeros((0, 4), dtype),
    ):
        buffer = device.upload(array)
        assert np.array_equal(device.download(buffer, array.shape, dtype), array)


def test_memory_goes_back_with_its_buffer(device):
    """Closing twice frees once."""
    before = device.free_bytes()
    buffers = [device.allocate(64 << 20) for _ in range(4)]
    assert device.free_bytes() < before
    buffers[0].close()
    buffers[0].close()
    del buffers
    gc.collect()
    assert device.free_bytes() == before


def test_a_full_device_is_an_error_that_counts(device):
    """What was asked for and what is left stand in it, and the device works on."""
    with pytest.raises(MemoryShortError) as caught:
        device.allocate(1 << 45)
    assert caught.value.needed_bytes == 1 << 45
    assert 0 < caught.value.available_bytes < 1 << 45
    assert device.upload(np.ones(4, np.float32)).size_bytes == 16


def test_a_device_is_named_for_plans(device):
    """Its model and its compute capability."""
    name, _, capability = device.name.rpartition(", ")
    assert name
    assert float(capability) > 0


class PlayedRuntime:
    """The calls that a device makes, each with a code and an answer; 0 is good."""

    def __init__(self, **answers):
        self.answers = {
            "cudaGetDeviceCount": (0, 1),
            "cudaGetDeviceProperties": (0, SimpleNamespace(name=b"played\0", major=9, minor=0)),
            "cudaStreamCreate": (0, 7),
            "cudaMemGetInfo": (0, 100, 1000),
        } | answers

    def __getattr__(self, name):
        return lambda *_: self.answers[name]


def played(monkeypatch, **answers):
    monkeypatch.setattr(cuda, "_library", lambda: PlayedRuntime(**answers))
    return Device()


@pytest.mark.parametrize(
    ("call", "answer", "message"),
    [
        ("cudaGetDeviceCount", (0, 0), "this machine has no CUDA device"),
        ("cudaGetDeviceCount", (35, 0), "cudaGetDeviceCount failed: 35"),
        ("cudaGetDeviceProperties", (101, None), "cudaGetDeviceProperties failed: 101"),
        ("cudaStreamCreate", (46, None), "cudaStreamCreate failed: 46"),
    ],
)
def test_a_device_that_cannot_be_had_is_told_with_what_to_install(monkeypatch, call, answer, message):
    """None, an old driver, or one that another process has for itself: this backend is not available."""
    with pytest.raises(BackendUnavailableError, match=message) as caught:
        played(monkeypatch, **{call: answer})
    assert caught.value.hint == cuda.HINT


def test_memory_that_the_device_refuses_is_told_by_its_reason(monkeypatch):
    """A full device names both sizes; any other fault is the run's."""
    assert played(monkeypatch).name == "played, 9.0"
    with pytest.raises(MemoryShortError, match="the GPU has no 4,096 bytes left") as caught:
        played(monkeypatch, cudaMalloc=(2, 0)).allocate(4096)
    assert (caught.value.needed_bytes, caught.value.available_bytes) == (4096, 100)
    with pytest.raises(UnsupportedModelError, match="cudaMalloc failed: 700"):
        played(monkeypatch, cudaMalloc=(700, 0)).allocate(4096)
