"""The scheduler makes the numbers of diffusers: against frozen ones everywhere, against the library where it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from p2psync.engine.unipc import UniPC

VECTORS = Path(__file__).parents[2] / "vectors" / "engine" / "unipc.json"
RUNS = json.loads(VECTORS.read_text())["runs"]


def walk(schedule, seed, shape):
    """Samples after each step, with random velocities."""
    random = np.random.RandomState(seed)
    sample = random.standard_normal(shape).astype(np.float32)
    for _ in schedule.timesteps:
        sample = schedule.step(random.standard_normal(shape).astype(np.float32), sample)
        yield sample


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['steps']} steps, shift {run['flow_shift']}")
def test_frozen_numbers(run):
    """Timesteps and sigmas are equal, samples within 1e-6 of their size, to what diffusers made."""
    schedule = UniPC(steps=run["steps"], flow_shift=run["flow_shift"], train_timesteps=1000)
    assert schedule.timesteps.tolist() == run["timesteps"]
    assert schedule.sigmas.tolist() == run["sigmas"]
    samples = list(walk(schedule, run["steps"], (1, 1, 1, 2, 3)))
    assert len(samples) == len(run["samples"])
    for ours, theirs in zip(samples, run["samples"], strict=True):
        assert np.abs(ours.reshape(-1) - np.array(theirs)).max() <= 1e-6 * max(1.0, np.abs(theirs).max())


def test_is_deterministic_and_float32():
    """Two runs give the same bits, and nothing widens to float64."""
    runs = [list(walk(UniPC(steps=8, flow_shift=3.0, train_timesteps=1000), 1, (1, 2, 2, 2, 2))) for _ in range(2)]
    assert all(a.dtype == np.float32 and np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_follows_a_straight_path_exactly():
    """Where the velocity is constant, the path is a line, and any number of steps ends at the data."""
    random = np.random.RandomState(0)
    data, noise = random.standard_normal((2, 1, 4, 3, 4, 4)).astype(np.float32)
    for steps in (1, 2, 3, 8, 50):
        schedule = UniPC(steps=steps, flow_shift=3.0, train_timesteps=1000)
        sample = noise
        for _ in range(steps):
            sample = schedule.step(noise - data, sample)
        assert np.abs(sample - data).max() < 2e-5


def test_more_steps_come_closer():
    """On a curved path the error falls by more than the order of a first-order method."""

    def end(steps):
        schedule = UniPC(steps=steps, flow_shift=3.0, train_timesteps=1000)
        sample = np.full((1, 1, 1, 1, 1), 1.5, np.float32)
        for at in range(steps):
            sigma = schedule.sigmas[at]
            # The exact velocity for data that is normal with mean 0.3 and deviation 0.5.
            spread = (1 - sigma) ** 2 * 0.25 + sigma**2
            data = 0.3 + (1 - sigma) * 0.25 / spread * (sample - (1 - sigma) * 0.3)
            sample = schedule.step(((sample - data) / sigma).astype(np.float32), sample)
        return float(sample.reshape(()))

    exact = end(400)
    errors = [abs(end(steps) - exact) for steps in (6, 12, 24)]
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 2.5


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 16, 50])
def test_equals_diffusers(shift, steps):
    """Within 1e-6 of the size of the samples in up to 16 steps, 2e-6 in 50, of the library's own run."""
    diffusers = pytest.importorskip("diffusers")
    import torch

    theirs = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )
    theirs.set_timesteps(steps)
    schedule = UniPC(steps=steps, flow_shift=shift, train_timesteps=1000)
    assert schedule.timesteps.tolist() == theirs.timesteps.tolist()
    random = np.random.RandomState(steps)
    shape = (1, 4, 3, 6, 6)
    ours = random.standard_normal(shape).astype(np.float32)
    other = torch.from_numpy(ours.copy())
    for timestep in theirs.timesteps:
        velocity = random.standard_normal(shape).astype(np.float32)
        ours = schedule.step(velocity, ours)
        other = theirs.step(torch.from_numpy(velocity), timestep, other, return_dict=False)[0]
        assert np.abs(ours - other.numpy()).max() <= (1e-6 if steps <= 16 else 2e-6) * np.abs(ours).max()
