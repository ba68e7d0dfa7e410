"""Decoding passes caches on, keeps memory flat, and puts tiles together without seams."""

import errno
import io
import tempfile

import numpy as np
import pytest

from p2psync.engine import decode
from p2psync.engine.decode import Decoder
from p2psync.engine.description import read_description
from p2psync.engine.pipeline import open_pipeline
from p2psync.errors import GenerationCancelledError, StoreFullError, StoreUnwritableError
from tests.unit.engine.tiny_engine import CHANNELS, make_engine


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    with open_pipeline(make_engine(tmp_path_factory.mktemp("decode") / "fp32")) as opened:
        yield opened


def latents(frames, height=4, width=6, seed=0):
    return np.random.RandomState(seed).standard_normal((1, CHANNELS, frames, height, width)).astype(np.float32)


def expected(pipeline, values):
    """What the tiny decoder makes, computed at once."""
    from safetensors.numpy import load_file

    colours = load_file(pipeline.described.directory / "decode.safetensors")["colours"]
    latent = pipeline.described.latent
    scaled = values[0] * np.array(latent.std).reshape(-1, 1, 1, 1) + np.array(latent.mean).reshape(-1, 1, 1, 1)
    frames = [scaled[:, 0]]
    for at in range(1, scaled.shape[1]):
        frames += [(scaled[:, at] + scaled[:, at - 1]) / 2] * 4
    small = np.tanh(np.stack(frames).transpose(0, 2, 3, 1) @ colours) * 0.5 + 0.5
    return small.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_stream_is_the_whole(pipeline, frames):
    """Frame by frame with caches gives what one graph over all frames would give."""
    values = latents(frames)
    made = list(pipeline.decode(values))
    assert [len(piece) for piece in made] == [1] + [4] * (frames - 1)
    assert np.abs(np.concatenate(made) - expected(pipeline, values)).max() < 1e-6


def test_a_graph_for_the_second_frame(tmp_path):
    """An export with a graph of its own for the second latent frame is decoded by all three."""
    engine = make_engine(tmp_path / "fp32", second=True)
    with open_pipeline(engine) as pipeline:
        values = latents(3)
        assert np.abs(np.concatenate(list(pipeline.decode(values))) - expected(pipeline, values)).max() < 1e-6
        assert pipeline.parts.loaded == {"decode_first", "decode_second", "decode_next"}


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (100, 130), (49, 7)])
def test_tiles_equal_the_whole(pipeline, size):
    """The tiny decoder looks at one place only, so tiles must give the whole to within the rounding of the blend."""
    values = latents(2, *size)
    whole = np.concatenate(list(pipeline.decode(values, tiled=False)))
    tiled = np.concatenate(list(pipeline.decode(values, tiled=True)))
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() < 1e-4


def test_seams_are_blended(pipeline, monkeypatch):
    """Tiles that disagree fade into each other: no step is larger than their difference over the overlap."""
    brightness = iter([0.0, 1.0])

    def stream(self, values):
        yield np.full((1, values.shape[3] * 8, values.shape[4] * 8, 3), next(brightness), np.float32)

    monkeypatch.setattr(Decoder, "_stream", stream)
    (frame,) = next(iter(pipeline.decode(latents(1, 8, 80), tiled=True)))
    row = frame[0, :, 0]
    assert row[0] == 0
    assert row[-1] == 1
    assert np.diff(row).min() >= 0
    assert np.diff(row).max() < 1 / 32


@pytest.mark.parametrize("size", [1, 5, 47, 48, 49, 60, 96, 160, 1024])
def test_spans_cover_and_sum_to_one(size):
    """Every pixel lies in a tile, and the weights of a pixel sum to one."""
    total = np.zeros(size * 8)
    for span in decode._spans(size, 8):
        assert span.stop - span.start == min(size, 48)
        total[span.start * 8 : span.stop * 8] += span.weights
    assert np.allclose(total, 1, atol=1e-6)


def test_large_frames_are_tiled(pipeline, monkeypatch):
    """Above half a megapixel or so tiles are used without being asked for."""
    asked = []
    monkeypatch.setattr(Decoder, "_in_tiles", lambda self, values: asked.append(values.shape) or iter(()))
    list(pipeline.decode(latents(1, 64, 64)))
    assert asked == []
    list(pipeline.decode(latents(1, 64, 65)))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFullError), (errno.EFBIG, StoreUnwritableError)], ids=["full", "limited"]
)
def test_a_full_disk_is_told_before_tiles_are_made(pipeline, monkeypatch, number, kind):
    """A mapped file without room behind it would end the process, so room is taken first."""
    written = []

    class Full(io.BytesIO):
        def write(self, data):
            written.append(len(data))
            raise OSError(number, "no room")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(Decoder, "_add_tile", lambda *_: pytest.fail("a tile was made"))
    with pytest.raises(kind):
        next(pipeline.decode(latents(9, 16, 16), tiled=True))
    assert len(written) == 1


def test_no_place_for_tiles_has_a_name(pipeline, monkeypatch):
    """Where temporary files cannot be made at all the error is that of a disk."""

    def refuse(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StoreUnwritableError):
        next(pipeline.decode(latents(1, 16, 16), tiled=True))


def test_cancel_while_decoding(pipeline):
    """A clip is not decoded to its end when the caller has left."""
    answers = iter([False, False, True])
    with pytest.raises(GenerationCancelledError, match="2 of 5"):
        list(pipeline.decode(latents(5), cancel=lambda: next(answers)))


def test_memory_is_flat(pipeline):
    """What Python holds while a clip of 81 frames passes by is at most 1.3 times that of 17 frames."""
    import tracemalloc

    peaks = []
    for frames in (17, 81):
        values = latents(1 + (frames - 1) // 4, 16, 16)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in pipeline.decode(values):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1] - before - values.nbytes)
        tracemalloc.stop()
    assert peaks[1] <= 1.3 * peaks[0]


def test_scale_is_read(shared_engine):
    """Latents are brought back to the decoder's own scale by the mean and deviation of each channel."""
    described = read_description(shared_engine)
    assert described.latent.std == (1.0, 2.0, 1.0, 0.5)
