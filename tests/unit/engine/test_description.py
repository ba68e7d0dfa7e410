"""engine.json is read strictly: what is wrong is named, what is newer is kept or refused."""

import json

import pytest

from p2psync.engine.description import read_description
from p2psync.errors import IncompleteModelError, MalformedError, UnsupportedModelError, UnsupportedVersionError
from p2psync.limits import ENGINE_FILE_BYTES_MAX, PART_TENSORS_MAX, PARTS_MAX, TRAIN_TIMESTEPS_MAX
from tests.unit.engine.tiny_engine import edit_json


def edited(engine, edit):
    edit_json(engine / "engine.json", edit)
    return engine


def at(*path, value):
    """An edit that sets one field, or with value ... removes it."""

    def edit(top):
        *way, last = path
        for key in way:
            top = top[key]
        if value is ...:
            del top[last]
        else:
            top[last] = value

    return edit


def test_whole(engine):
    """Every field arrives in its type, with its unit in its name."""
    described = read_description(engine)
    assert described.experts == ("high", "low")
    assert (described.video.height_px, described.video.width_px, described.video.frames) == (32, 48, 9)
    assert described.sampling.boundary_ratio == 0.875
    assert described.parts["high"].inputs[0].dims == ("b", 4, "t", "h", "w")
    assert described.path(described.tokenizer) == engine.parent / "tokenizer" / "tokenizer.json"
    assert described.extra == {}


def test_shared_weights_count_once(engine):
    """The two graphs of the decoder point into one file."""
    described = read_description(engine)
    files = {described.path(part.weights) for part in described.parts.values()}
    assert described.weights_bytes == sum(path.stat().st_size for path in files)
    assert len(files) == len(described.parts) - 1


def test_newer_fields_are_kept(engine):
    """A field of a newer minor version is kept and harms nothing, at the top and inside."""
    edited(engine, lambda top: (top.update(later=[1]), top["parts"]["text"].update(later=1)))
    assert read_description(engine).extra == {"later": [1]}


def test_newer_format_is_refused(engine):
    """A newer major version is refused by name."""
    with pytest.raises(UnsupportedVersionError, match="format 2"):
        read_description(edited(engine, at("format", value=2)))


def test_not_an_engine(tmp_path):
    """A directory without engine.json says so, and how a single graph is run."""
    with pytest.raises(UnsupportedModelError, match=r"no engine\.json") as caught:
        read_description(tmp_path)
    assert "load" in caught.value.hint


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (at("parts", "text", value=...), "text"),
        (at("parts", "decode_next", value=...), "decode_next"),
        (lambda top: [top["parts"].pop(name) for name in ("high", "low")], "high or low"),
    ],
)
def test_missing_parts(engine, edit, named):
    """A pipeline without a part that it needs is incomplete, and the part is named."""
    with pytest.raises(IncompleteModelError, match=named):
        read_description(edited(engine, edit))


@pytest.mark.parametrize("field", ["pipeline", "scheduler"])
def test_unknown_kinds(engine, field):
    """A pipeline or scheduler that this version does not have is not run by another one."""
    edit = at("pipeline", value="sora") if field == "pipeline" else at("sampling", "scheduler", value="euler")
    with pytest.raises(UnsupportedModelError, match=field):
        read_description(edited(engine, edit))


@pytest.mark.parametrize(
    "edit",
    [
        at("format", value=True),
        at("format", value="1"),
        at("name", value=...),
        at("name", value=5),
        at("name", value="a\nb"),
        at("precision", value=""),
        at("parts", value=[]),
        at("parts", "text", value=[]),
        at("parts", "text", "skeleton", value="/etc/passwd"),
        at("parts", "text", "skeleton", value="../../x.onnx"),
        at("parts", "text", "skeleton", value="a/../../x.onnx"),
        at("parts", "text", "skeleton", value="a\\b"),
        at("parts", "text", "skeleton", value="a//b"),
        at("parts", "text", "skeleton", value=""),
        at("parts", "text", "skeleton", value="x" * 2000),
        at("parts", "text", "skeleton_digest", value="b3:00"),
        at("parts", "text", "weights_digest", value=...),
        at("parts", "text", "skeletons", value={"ort-cuda": "x.onnx"}),
        at("parts", "text", "inputs", value=[["x"]]),
        at("parts", "text", "inputs", value=[["x", "float8", []]]),
        at("parts", "text", "inputs", value=[["x", "float32", [-1]]]),
        at("parts", "text", "inputs", value=[["x", "float32", [True]]]),
        at("sampling", "steps", value=0),
        at("sampling", "steps", value=8.5),
        at("sampling", "guidance", value="1"),
        at("sampling", "guidance", value=1e9),
        at("sampling", "boundary_ratio", value=None),
        at("sampling", "boundary_ratio", value=2),
        at("video", "height", value=33),
        at("video", "frames", value=10),
        at("video", "fps", value=0),
        at("video", "size_step", value=12),
        at("latent", "std", value=[1, 1, 1]),
        at("latent", "std", value=[1, 1, 1, 0]),
        at("latent", "mean", value=[0, 0, 0, True]),
        at("cost", value=5),
        at("tokenizer", value="/tokenizer.json"),
    ],
)
def test_wrong_fields(engine, edit):
    """A field of another type, out of its range, or in conflict with another one is refused."""
    with pytest.raises(MalformedError):
        read_description(edited(engine, edit))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b'{"format": Infinity}',
        b"\xff{}",
        b"[" * 100_000,
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b'{"a": "' + b"x" * (1 << 20) + b'"}',
    ],
    ids=range(10),
)
def test_not_json(engine, text):
    """What is no JSON object, is nested deeply, too long or says a key twice is refused before it is read further."""
    (engine / "engine.json").write_bytes(text)
    with pytest.raises(MalformedError):
        read_description(engine)


def test_one_expert_needs_no_boundary(engine):
    """A pipeline of one expert has no boundary."""
    edited(engine, lambda top: (top["parts"].pop("low"), top["sampling"].pop("boundary_ratio")))
    described = read_description(engine)
    assert described.experts == ("high",)
    assert described.sampling.boundary_ratio is None


def test_skeletons_by_backend(engine):
    """A backend with a skeleton of its own gets it, with its digest; the others get the plain one."""
    digest = json.loads((engine / "engine.json").read_text())["parts"]["text"]["skeleton_digest"]
    extra = {"skeletons": {"ort-cuda": "text.cuda.onnx"}, "skeleton_digests": {"ort-cuda": digest}}
    part = read_description(edited(engine, lambda top: top["parts"]["text"].update(extra))).parts["text"]
    assert part.skeleton_for("ort-cuda") == ("text.cuda.onnx", part.skeleton_digest)
    assert part.skeleton_for("ort-cpu")[0] == "text.onnx"


def test_the_number_of_parts_is_bounded(engine):
    """As many as the cap are read, one more is refused before any of them is."""

    def grow(top):
        for number in range(PARTS_MAX - len(top["parts"])):
            top["parts"][f"more{number}"] = top["parts"]["text"]

    assert len(read_description(edited(engine, grow)).parts) == PARTS_MAX
    with pytest.raises(MalformedError, match=f"more than {PARTS_MAX} parts"):
        read_description(edited(engine, at("parts", "one more", value={})))


@pytest.mark.parametrize("field", ["size_step", "frames_step"])
def test_steps_are_whole_latents(engine, field):
    """A step of one pixel fits every size, and no latent: the clip would have another size than was asked for."""
    with pytest.raises(MalformedError, match="the steps are no multiples of what one latent stands for"):
        read_description(edited(engine, at("video", field, value=1)))


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_the_tensors_of_a_part_are_bounded(engine, field):
    """As many as the cap are read, one more is refused before any of them is."""
    many = [[f"x{number}", "float32", []] for number in range(PART_TENSORS_MAX + 1)]
    part = read_description(edited(engine, at("parts", "text", field, value=many[1:]))).parts["text"]
    assert len(getattr(part, field)) == PART_TENSORS_MAX
    with pytest.raises(MalformedError, match=f"{field}: no list of at most {PART_TENSORS_MAX}"):
        read_description(edited(engine, at("parts", "text", field, value=many)))


def test_the_timesteps_of_a_scheduler_are_bounded(engine):
    """A model that says more than any was trained with is refused by that number."""
    edited(engine, at("sampling", "train_timesteps", value=TRAIN_TIMESTEPS_MAX))
    assert read_description(engine).sampling.train_timesteps == TRAIN_TIMESTEPS_MAX
    with pytest.raises(MalformedError, match="train_timesteps: no integer from 2"):
        read_description(edited(engine, at("sampling", "train_timesteps", value=TRAIN_TIMESTEPS_MAX + 1)))


def test_the_length_of_the_file_is_bounded(engine):
    """The longest is read whole; one byte more is refused by its length, though it is nothing but space."""
    path = engine / "engine.json"
    path.write_bytes(path.read_bytes().ljust(ENGINE_FILE_BYTES_MAX))
    assert read_description(engine).parts
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(MalformedError, match=f"engine.json is longer than {ENGINE_FILE_BYTES_MAX} bytes"):
        read_description(engine)
