import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wan_tiny.judge import Verdict, compare, look
from wan_tiny.render import render
from wan_tiny.world import COLOURS, DIRECTIONS, SHAPES, Frame, sample, split_triples

_N = 24


def _scenes(objects):
    return sample(np.random.default_rng(8), _N, split_triples().every, two_share=objects - 1.0)


def _clips(scenes):
    return [clip.transpose(1, 2, 3, 0) for clip in render(scenes, Frame())[0]]


@pytest.fixture(scope="module", params=[1, 2])
def seen(request):
    scenes = _scenes(request.param)
    return scenes, [look(clip) for clip in _clips(scenes)]


def test_a_rendered_clip_is_right_in_everything(seen):
    """The judge agrees with the renderer on every attribute of every clip."""
    scenes, verdicts = seen
    for i, verdict in enumerate(verdicts):
        marks = compare(verdict, scenes, i)
        assert marks.right
        assert marks.order
        if scenes.count[i] == 1:
            assert marks.size
            assert marks.speed


def test_a_clip_of_another_scene_is_wrong(seen):
    """No clip passes for a scene that it was not made for."""
    scenes, verdicts = seen
    assert not any(compare(verdicts[i - 1], scenes, i).right for i in range(_N))


@pytest.mark.parametrize(("name", "values"), [("colour", COLOURS), ("shape", SHAPES), ("direction", DIRECTIONS)])
def test_one_wrong_attribute_is_found_and_is_the_only_one(seen, name, values):
    """Asked for another colour, shape or direction of the last object, the judge says which of them is wrong."""
    scenes, verdicts = seen
    asked = getattr(scenes, name).copy()
    rows, last = np.arange(_N), scenes.count - 1
    asked[rows, last] = (asked[rows, last] + 1) % len(values)
    if name == "colour":
        # Of a pair both would be of one colour, which the world never asks for.
        same = (scenes.count == 2) & (asked[:, 0] == asked[:, 1])
        asked[same, 1] = (asked[same, 1] + 1) % len(values)
    other = replace(scenes, **{name: asked})
    for i, verdict in enumerate(verdicts):
        marks = compare(verdict, other, i)
        assert not marks.right
        assert not getattr(marks, name)
        assert [n for n in ("count", "colour", "shape", "direction") if not getattr(marks, n)] == [name]


def test_one_object_where_two_were_asked_is_wrong_and_so_is_the_reverse():
    """The judge counts for itself."""
    one, two = _scenes(1), _scenes(2)
    for i, (single, pair) in enumerate(zip(_clips(one)[:6], _clips(two)[:6], strict=True)):
        assert not compare(look(single), two, i).count
        assert not compare(look(pair), one, i).count


def test_bytes_are_judged_like_floats():
    """A clip of bytes gives the verdict of the same clip in floats."""
    clip = _clips(_scenes(2))[0]
    read = look((clip * 255).round().astype(np.uint8))
    plain = look(clip)
    assert [(o.colour, o.shape, o.direction) for o in read.objects] == [
        (o.colour, o.shape, o.direction) for o in plain.objects
    ]


def test_an_object_that_stands_still_has_no_direction():
    """Every frame being the first one, nothing moves."""
    for clip in _clips(_scenes(1))[:6]:
        (thing,) = look(np.repeat(clip[:1], len(clip), axis=0)).objects
        assert thing.direction is None


def test_an_object_that_vanishes_has_neither_shape_nor_direction():
    """Half of the clip being empty, the object cannot be followed."""
    clip = _clips(_scenes(1))[0].copy()
    clip[len(clip) // 2 :] = clip[0, 0, 0]
    for thing in look(clip).objects:
        assert thing.shape is None
        assert thing.direction is None


def test_an_empty_clip_holds_nothing():
    """A grey clip has no objects, and is right for no scene."""
    verdict = look(np.full((17, 64, 96, 3), 0.1))
    assert verdict == Verdict((), clean=True)
    assert not compare(verdict, _scenes(1), 0).right


def test_noise_is_right_for_no_scene():
    """What an untrained model makes does not pass."""
    noise = np.random.default_rng(0).random((17, 64, 96, 3))
    scenes = _scenes(1)
    verdict = look(noise)
    assert not any(compare(verdict, scenes, i).right for i in range(_N))


def test_a_square_rounded_to_a_disc_is_no_square():
    """A blurred outline is taken for the shape that it looks like."""
    scenes = sample(np.random.default_rng(8), 4, split_triples().every, two_share=0.0)
    discs = replace(scenes, shape=np.full_like(scenes.shape, SHAPES.index("circle")))
    asked = replace(scenes, shape=np.full_like(scenes.shape, SHAPES.index("square")))
    for i, clip in enumerate(_clips(discs)):
        assert not compare(look(clip), asked, i).shape


def test_the_judge_needs_no_torch():
    """World, captions, renderer and judge load where torch cannot be imported."""
    code = "import sys; sys.modules['torch'] = None; import wan_tiny.judge, wan_tiny.captions"
    examples = Path(__file__).resolve().parents[4] / "examples"
    done = subprocess.run([sys.executable, "-c", code], cwd=examples, check=False, timeout=60)
    assert done.returncode == 0
