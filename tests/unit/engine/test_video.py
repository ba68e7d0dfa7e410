"""Frames become files that other programs read, whole or not at all."""

import errno
import io
import os
import re
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psync import disk
from p2psync.engine.video import Mp4, Outgoing, Sheet, check_name, disk_error, png, remove_parts, writing
from p2psync.errors import MemoryShortError, StoreFullError, StoreUnwritableError, UsageError


def frames(count, height=32, width=48):
    """A square that moves over a coloured ground."""
    made = np.zeros((count, height, width, 3), np.uint8)
    made[...] = (40, 80, 120)
    for at in range(count):
        made[at, 8:16, at : at + 8] = (220, 30, 30)
    return made


def read_png(data):
    with av.open(io.BytesIO(data), format="png_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_mp4_comes_back():
    """Every frame is in the file, in order, at its rate, near to what it was."""
    file = io.BytesIO()
    movie = Mp4(file, height_px=32, width_px=48, fps=8)
    clip = frames(9)
    for piece in (clip[:1], clip[1:5], clip[5:]):
        movie.add(piece)
    movie.finish()
    file.seek(0)
    with av.open(file) as container:
        assert container.streams.video[0].average_rate == 8
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == clip.shape
    assert np.abs(read.astype(int) - clip).mean() < 6


def test_png_is_exact():
    """A PNG holds exactly the pixels."""
    picture = np.random.RandomState(0).randint(0, 256, (33, 47, 3)).astype(np.uint8)
    assert np.array_equal(read_png(png(picture)), picture)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (5, (2, 4)), (9, (3, 4)), (17, (4, 4)), (81, (4, 4))])
def test_sheet_shows_first_and_last(count, shape):
    """A sheet has at most 16 frames, the first and the last among them, evenly spaced."""
    clip = frames(count, 64, 96)
    sheet = Sheet(frames=count, height_px=64, width_px=96)
    for at in range(0, count, 4):
        sheet.add(clip[at : at + 4])
    picture = sheet.picture()
    tile = (64 * 2 + 4, 96 * 2 + 4)
    assert picture.shape == (shape[0] * tile[0] + 4, shape[1] * tile[1] + 4, 3)
    assert np.array_equal(picture[4 : 4 + 128, 4 : 4 + 192], clip[0].repeat(2, axis=0).repeat(2, axis=1))
    shown = min(count, 16)
    row, column = divmod(shown - 1, shape[1])
    top, left = 4 + row * tile[0], 4 + column * tile[1]
    assert np.array_equal(picture[top : top + 128, left : left + 192], clip[-1].repeat(2, axis=0).repeat(2, axis=1))


def test_sheet_shrinks_large_frames():
    """Large frames are reduced by their mean."""
    sheet = Sheet(frames=1, height_px=720, width_px=1280)
    sheet.add(np.full((1, 720, 1280, 3), 100, np.uint8))
    picture = sheet.picture()
    assert picture.shape == (144 + 8, 256 + 8, 3)
    assert (picture[4:-4, 4:-4] == 100).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 20), st.integers(1, 20))
def test_sheet_of_any_clip(count, height, width):
    """Any clip has a sheet, with one tile for each of its first 16 frames or fewer."""
    sheet = Sheet(frames=count, height_px=height * 16, width_px=width * 16)
    for _ in range(count):
        sheet.add(np.zeros((1, height * 16, width * 16, 3), np.uint8))
    assert len(sheet._tiles) == min(count, 16)
    assert sheet.picture().dtype == np.uint8


def test_appears_whole(tmp_path):
    """Until it is kept a file has no name; then it replaces what was there."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with Outgoing(path) as out:
        out.file.write(b"new")
        assert path.read_bytes() == b"old"
        out.keep()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_nothing(tmp_path):
    """When the work fails, the old file stays and nothing else."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), Outgoing(path) as out:
        out.file.write(b"half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"old"


def test_unwritable(tmp_path):
    """A directory that is missing, a file, or the output itself: this disk's error, with a hint."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir.mp4").mkdir()
    for path in (tmp_path / "none" / "a.mp4", tmp_path / "file" / "a.mp4", tmp_path / "dir.mp4"):
        # Entered, so that a file which is there against all expectation is closed again.
        with pytest.raises(StoreUnwritableError, match="cannot write") as caught, Outgoing(path):
            pass
        assert caught.value.exit_code == 6
        assert caught.value.hint


def test_full_disk():
    """A full disk is told apart from one that refuses."""
    assert isinstance(disk_error("x", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), StoreFullError)
    assert isinstance(disk_error("x", OSError(errno.EACCES, os.strerror(errno.EACCES))), StoreUnwritableError)


class Refusing(io.BytesIO):
    """Takes nothing, as a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_the_disk_refused_ends_the_clip():
    """Its error comes out of the call that wrote, or of the last one, and not out of somebody else's clip."""
    movie = Mp4(Refusing(), height_px=32, width_px=48, fps=8)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        (movie.add(frames(9)), movie.finish())


def test_only_mp4(tmp_path):
    """Another format is refused by name, with the name that would do."""
    check_name(tmp_path / "a.MP4")
    for name in ("a.gif", "a", "a.mp4.mkv"):
        with pytest.raises(UsageError) as caught:
            check_name(tmp_path / name)
        assert ".mp4" in caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN], ids=["no memory", "no thread"])
def test_memory_that_is_short_is_no_fault_of_the_disk(tmp_path, number):
    """An encoder that gets no memory, or no thread, says so by the numbers of a file."""
    said = r"clip\.mp4 cannot be written: not enough memory"
    with pytest.raises(MemoryShortError, match=said) as caught, writing(tmp_path / "clip.mp4"):
        raise OSError(number, "no")
    assert "smaller" in caught.value.hint


def test_an_encoder_that_fails_has_a_name(tmp_path, monkeypatch):
    """It takes these frames elsewhere; here it got no memory, and says no more than that it failed."""
    with (tmp_path / "clip.mp4").open("wb") as file:
        movie = Mp4(file, height_px=32, width_px=32, fps=8)

        def fails(_):
            raise av.error.ExternalError(1, "Generic error in an external library")

        monkeypatch.setattr(movie, "_stream", SimpleNamespace(encode=fails))
        with pytest.raises(MemoryShortError, match="encodes nothing: not enough memory"):
            movie.add(np.zeros((1, 32, 32, 3), np.uint8))
        with pytest.raises(MemoryShortError, match="encodes nothing"):
            movie.finish()


def test_what_is_settled_is_not_abandoned(tmp_path):
    """Another run that tidies up between the last byte and the name of a clip leaves it alone."""
    with Outgoing(tmp_path / "clip.mp4") as out:
        out.file.write(b"whole")
        out.settle()
        remove_parts(tmp_path)
        out.keep()
    assert (tmp_path / "clip.mp4").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("lost", [1, 2])
def test_what_was_taken_for_abandoned_is_begun_again(tmp_path, monkeypatch, lost):
    """A run that tidies up may come between a new file and its hold; the file is then made once more."""
    hold, calls = disk.hold, []

    def late(fd):
        calls.append(fd)
        if len(calls) <= lost:
            (part,) = tmp_path.glob(".clip.mp4.*")
            part.unlink()
        return hold(fd)

    monkeypatch.setattr(disk, "hold", late)
    with Outgoing(tmp_path / "clip.mp4") as out:
        out.file.write(b"whole")
        out.keep()
    assert len(calls) == lost + 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_where_nothing_can_be_held_a_clip_is_written(tmp_path, monkeypatch):
    """Some file systems know no locks."""
    monkeypatch.setattr(disk, "hold", lambda _: False)
    with Outgoing(tmp_path / "clip.mp4") as out:
        out.file.write(b"whole")
        out.keep()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
