"""SSIM is what scikit-image computes, to the last digits."""

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed (extra compress)")

from p2psync.compress.similarity import WINDOW, ssim  # noqa: E402 - After the question whether it can be.
from p2psync.errors import UnsupportedModelError  # noqa: E402


def noise():
    draw = np.random.RandomState(7)
    clip = draw.rand(2, 24, 20, 3)
    return clip, np.clip(clip + 0.1 * draw.standard_normal(clip.shape), 0, 1)


def moving_circle():
    y, x = np.mgrid[0:32, 0:32]
    shapes = np.stack([((y - 10) ** 2 + (x - 8 - 2 * t) ** 2 < 36) * 1.0 for t in range(3)])
    clip = shapes[..., None] * np.array([0.9, 0.2, 0.1]) + np.array([0.0, 0.1, 0.1])
    return clip, np.roll(clip, 1, axis=2)


def test_equal_to_scikit_image():
    """Computed by scikit-image 0.26: gaussian_weights, sigma 1.5, population covariance, data range 1."""
    assert ssim(*noise()) == pytest.approx(0.943166635352201, abs=1e-12)
    assert ssim(*moving_circle()) == pytest.approx(0.8572014302662555, abs=1e-12)


def test_one_for_equal_clips_and_symmetric():
    """A clip is like itself, and the order does not matter."""
    first, second = noise()
    assert ssim(first, first) == pytest.approx(1.0, abs=1e-12)
    assert ssim(first, second) == pytest.approx(ssim(second, first), abs=1e-12)
    assert ssim(first, 1 - first) < 0


@pytest.mark.parametrize("fault", ["shape", "rank", "small", "nan"])
def test_what_cannot_be_compared_is_refused(fault):
    """Other shapes, frames smaller than the window and values that are no numbers have no similarity."""
    clip = np.zeros((1, WINDOW, WINDOW, 3))
    bad = {
        "shape": np.zeros((1, WINDOW + 1, WINDOW, 3)),
        "rank": clip[0],
        "small": clip[:, 1:],
        "nan": np.full_like(clip, np.nan),
    }[fault]
    with pytest.raises(UnsupportedModelError):
        ssim(clip if fault in {"shape", "nan"} else bad, bad)
