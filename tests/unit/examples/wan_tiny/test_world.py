import numpy as np
import pytest
from wan_tiny.captions import LANGUAGES, caption
from wan_tiny.render import coverage, render
from wan_tiny.world import COLOURS, COLOURS_KNOWN_FIRST, DIRECTIONS, REACH, SHAPES, Frame, sample, split_triples


def _scenes(n, objects, seed=3):
    return sample(np.random.default_rng(seed), n, split_triples().every, two_share=objects - 1.0)


def test_a_quarter_of_the_triples_is_held_out_and_none_is_in_both():
    """Trained and held-out triples share none, and together are all there are."""
    triples = split_triples()
    trained, held_out = ({tuple(row) for row in rows.tolist()} for rows in (triples.trained, triples.held_out))
    assert not trained & held_out
    assert len(trained) + len(held_out) == len(COLOURS) * len(SHAPES) * len(DIRECTIONS)
    assert len(held_out) * 4 == len(trained | held_out)


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_training_sees_every_pair_of_attributes(axes):
    """What is new in a held-out triple is the combination of three, never of two."""
    known = split_triples().of_colours(0, COLOURS_KNOWN_FIRST)
    pairs = {tuple(row) for row in known.trained[:, axes].tolist()}
    assert pairs == {tuple(row) for row in known.every[:, axes].tolist()}


@pytest.mark.parametrize("objects", [1, 2])
def test_objects_stay_inside_their_part_of_the_frame(objects):
    """From the first frame to the last each object is inside the frame, and of two each inside its half."""
    scenes, frame = _scenes(500, objects), Frame()
    ends = np.stack([scenes.start, scenes.start + scenes.travel])[:, :, :objects]
    reach = (REACH[scenes.shape] * scenes.radius)[:, :objects, None]
    low, high = ends - reach, ends + reach
    assert low.min() >= 0
    assert high[..., 0].max() <= frame.width
    assert high[..., 1].max() <= frame.height
    if objects == 2:
        assert high[:, :, 0, 0].max() <= frame.width / 2 <= low[:, :, 1, 0].min()


def test_two_objects_never_share_a_colour():
    """The judge tells two objects apart by colour."""
    scenes = _scenes(500, 2)
    assert (scenes.colour[:, 0] != scenes.colour[:, 1]).all()


def test_a_seed_makes_the_same_scenes():
    """Scenes depend on the seed alone."""
    assert (_scenes(20, 2).start == _scenes(20, 2).start).all()
    assert (_scenes(20, 2).start != _scenes(20, 2, seed=4).start).any()


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_all_shapes_of_a_radius_cover_the_same_area(shape):
    """No shape is told by its size: each covers what the disc of its radius covers, within 1 %."""
    axis = np.arange(64) - 31.5
    area = coverage(np, shape, axis[None, :], axis[:, None], 10.0).sum()
    assert area == pytest.approx(np.pi * 100, rel=0.01)


def test_a_clip_shows_the_object_in_its_colour_and_moves_it():
    """The centre of what is covered goes from start to start plus travel."""
    scenes, frame = _scenes(1, 1), Frame()
    clips, covered = render(scenes, frame)
    assert clips.shape == (1, 3, frame.frames, frame.height, frame.width)
    x = np.arange(frame.width) + 0.5
    centre = (covered[0] * x).sum(axis=(1, 2)) / covered[0].sum(axis=(1, 2))
    assert centre[0] == pytest.approx(scenes.start[0, 0, 0], abs=0.3)
    assert centre[-1] - centre[0] == pytest.approx(scenes.travel[0, 0, 0], abs=0.3)
    inside = covered[0] == 1
    assert pytest.approx(np.broadcast_to(scenes.rgb[0, 0], (inside.sum(), 3)), abs=1e-5) == clips[0][:, inside].T


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_name_the_left_object_first_and_say_colour_and_shape(language):
    """Each phrase holds the words of its own object, in the order of the objects."""
    scenes, rng, spoken = _scenes(50, 2), np.random.default_rng(1), LANGUAGES[language]
    for i in range(50):
        said = caption(scenes, i, language, rng)
        assert said.text.startswith(said.first + spoken.joint)
        phrases = (said.first, said.text[len(said.first) + len(spoken.joint) :])
        for k, phrase in enumerate(phrases):
            assert any(word in phrase for word in spoken.colours[scenes.colour[i, k]])
            assert spoken.shapes[scenes.shape[i, k]][0] in phrase
            assert any(word in phrase for word in spoken.directions[scenes.direction[i, k]])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_caption_says_size_and_speed_exactly_where_it_claims_to(language):
    """What a caption claims to say is in it; what it leaves open is not."""
    scenes, rng, spoken = _scenes(60, 1), np.random.default_rng(2), LANGUAGES[language]
    said = [caption(scenes, i, language, rng) for i in range(60)]
    assert {line.says_size for line in said} == {line.says_speed for line in said} == {False, True}
    for i, line in enumerate(said):
        assert line.says_speed == any(word in line.text for word in spoken.speeds[scenes.fast[i, 0]])
        assert not line.says_size or any(word in line.text for word in spoken.sizes[scenes.large[i, 0]])
