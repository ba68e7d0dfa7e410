"""A request is settled before anything is loaded; what cannot be made is answered with the nearest that can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.engine.description import Video, read_description
from p2psync.engine.request import Wish, check_size, settle
from p2psync.errors import MalformedError, UnfitRequestError
from p2psync.limits import STEPS_MAX
from tests.unit.engine.tiny_engine import edit_json

VIDEO = Video(height_px=64, width_px=64, frames=9, fps=8, frames_step=4, size_step_px=16)


def test_publishers_choice(shared_engine):
    """What is not asked for is what the publisher chose."""
    request = settle(read_description(shared_engine), Wish("a  red circle", seed=7))
    assert (request.height_px, request.width_px, request.frames, request.steps) == (32, 48, 9, 4)
    assert request.guidance == 1.5
    assert request.guided
    assert request.prompt == "a red circle"


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_of_one_is_none(shared_engine, guidance):
    """Without guidance each step needs one call."""
    assert not settle(read_description(shared_engine), Wish("a", guidance=guidance)).guided


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((65, 64), "64x64"),
        ((100, 72), "96x64"),
        ((1, 64), "16x64"),
        ((64, 0), "64x16"),
        ((-5, 64), "16x64"),
        ((99_999, 64), "8192x64"),
    ],
)
def test_sizes(size, nearest):
    """A side that is no multiple of 16 is refused with the nearest size."""
    with pytest.raises(UnfitRequestError, match="multiples of 16") as caught:
        check_size(VIDEO, *size, 9)
    assert f"--size {nearest}" in caught.value.hint


@pytest.mark.parametrize(
    ("frames", "nearest"), [(8, 9), (10, 9), (12, 13), (0, 1), (-3, 1), (80, 81), (1_000_000, 4097)]
)
def test_lengths(frames, nearest):
    """A number of frames that is not 4k+1 is refused with the nearest."""
    with pytest.raises(UnfitRequestError, match=r"4k\+1") as caught:
        check_size(VIDEO, 64, 64, frames)
    assert caught.value.hint == f"the nearest is --frames {nearest}"


@given(st.integers(-100, 20_000), st.integers(-100, 20_000), st.integers(-100, 10_000))
def test_what_the_hint_names_can_be_made(height, width, frames):
    """Whatever is asked for, following the hints ends at something that can be made."""
    for _ in range(3):
        try:
            check_size(VIDEO, height, width, frames)
        except UnfitRequestError as error:
            _, _, value = error.hint.rpartition(" ")
            if "x" in value:
                height, width = map(int, value.split("x"))
            else:
                frames = int(value)
        else:
            return
    pytest.fail("no size after three hints")


@pytest.mark.parametrize(
    "wish",
    [
        Wish("a", steps=0),
        Wish("a", steps=1001),
        Wish("a", guidance=-1.0),
        Wish("a", guidance=float("nan")),
        Wish("a", guidance=float("inf")),
        Wish("a", seed=-1),
        Wish("a", seed=1 << 32),
    ],
)
def test_numbers_out_of_range(shared_engine, wish):
    """Steps, guidance and seed have ranges, and the refusal has a hint."""
    with pytest.raises(UnfitRequestError) as caught:
        settle(read_description(shared_engine), wish)
    assert caught.value.hint


def test_the_number_of_steps_is_bounded(engine):
    """Where a scheduler has more timesteps than anybody needs, steps still end at the cap, the publisher's too."""
    edit_json(engine / "engine.json", lambda top: top["sampling"].update(train_timesteps=2 * STEPS_MAX))
    described = read_description(engine)
    assert settle(described, Wish("a", steps=STEPS_MAX)).steps == STEPS_MAX
    with pytest.raises(UnfitRequestError, match=f"{STEPS_MAX + 1} steps: from 1 to {STEPS_MAX} can be made"):
        settle(described, Wish("a", steps=STEPS_MAX + 1))
    edit_json(engine / "engine.json", lambda top: top["sampling"].update(steps=STEPS_MAX + 1))
    with pytest.raises(MalformedError, match=f"steps: no integer from 1 to {STEPS_MAX}"):
        read_description(engine)


def test_pictures_only():
    """A model of single pictures makes one frame."""
    picture = Video(height_px=64, width_px=64, frames=1, fps=1, frames_step=4, size_step_px=16)
    check_size(picture, 64, 64, 1)
    with pytest.raises(UnfitRequestError, match="is 1,") as caught:
        check_size(picture, 64, 64, 5)
    assert caught.value.hint == "the nearest is --frames 1"
