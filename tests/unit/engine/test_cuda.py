"""GPU memory: what goes up comes down, what is full is said, and a machine without one says what to install."""

import gc

import numpy as np
import pytest

from p2psync.engine import cuda
from p2psync.engine.cuda import Device
from p2psync.errors import BackendUnavailableError, MemoryShortError


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
