"""Parts are proved, loaded when used, and exchanged when memory is short."""

import numpy as np
import pytest

from p2psync.engine import memory
from p2psync.engine.backends import backend
from p2psync.engine.description import read_description
from p2psync.engine.pipeline import open_pipeline
from p2psync.engine.residency import Parts, fits_together, growth, prove_weights
from p2psync.errors import IncompleteModelError, ModelError
from tests.unit.engine.tiny_engine import change_weights, edit_json, make_engine


def test_all_stay_where_there_is_room(shared_engine):
    """With room, what was loaded stays loaded."""
    with open_pipeline(shared_engine, keep_parts=True) as pipeline:
        pipeline.generate("a", guidance=1.0)
        assert pipeline.parts.loaded == {"text", "high", "low", "decode_first", "decode_next"}


def test_one_at_a_time_gives_the_same(shared_engine):
    """When memory is short, one turn is loaded at a time, the frames stay the same, and the experts never meet."""
    with open_pipeline(shared_engine, keep_parts=True) as pipeline:
        roomy = pipeline.generate("a red circle")
    together = set()
    with open_pipeline(shared_engine, keep_parts=False) as pipeline:
        short = pipeline.generate("a red circle", on_step=lambda *_: together.add(pipeline.parts.loaded))
        assert pipeline.parts.loaded == {"decode_first", "decode_next"}
    assert together == {frozenset({"high"}), frozenset({"low"})}
    assert np.array_equal(roomy, short)


def test_memory_decides(shared_engine, monkeypatch):
    """Without being told, the memory that is available decides."""
    for free, keeps in ((10_000, True), (1_000, False), (None, True)):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        with open_pipeline(shared_engine) as pipeline:
            assert pipeline.parts.keeps_all is keeps
    assert (growth("fp16", "ort-cpu"), growth("fp16", "ort-cuda"), growth("int8", "ort-cpu")) == (2, 1, 1)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert fits_together(800)
    assert not fits_together(801)


def test_load_all_finds_what_does_not_load(engine):
    """Loading everything finds a graph that the runtime does not take, before the first request."""
    (engine / "low.onnx").write_bytes(b"\x08\x09")
    edit_json(
        engine / "engine.json", lambda top: top["parts"]["low"].update(skeleton_digest=digest(engine / "low.onnx"))
    )
    with open_pipeline(engine) as pipeline, pytest.raises(ModelError, match=r"low\.onnx"):
        pipeline.parts.load_all()


def digest(path):
    from p2psync.content import Digest

    return str(Digest.of(path.read_bytes()))


@pytest.mark.parametrize("name", ["text.onnx", "low.onnx", "decode_next.onnx"])
def test_skeleton_of_another_version(engine, name):
    """A skeleton that engine.json was not written for is refused when the engine is opened."""
    (engine / name).write_bytes((engine / name).read_bytes() + b"\x12\x00")
    with pytest.raises(IncompleteModelError, match=name) as caught:
        open_pipeline(engine)
    assert caught.value.exit_code == 9
    assert caught.value.hint


def test_weights_of_another_version(engine, tmp_path):
    """Weights of another version have the right size and other bytes: proving finds them."""
    other = make_engine(tmp_path / "other" / "fp32", seed=1)
    (engine / "high.safetensors").write_bytes((other / "high.safetensors").read_bytes())
    open_pipeline(engine).close()
    with pytest.raises(IncompleteModelError, match=r"high\.safetensors"):
        open_pipeline(engine, prove=True)


def test_whole_weights_prove(shared_engine):
    """An engine as its publisher made it proves."""
    prove_weights(read_description(shared_engine))


@pytest.mark.parametrize("name", ["high.onnx", "high.safetensors", "decode.safetensors"])
def test_missing_files(engine, name):
    """A file that is missing is named when the engine is opened."""
    (engine / name).unlink()
    with pytest.raises(IncompleteModelError, match=name.replace(".", r"\.")):
        open_pipeline(engine)


def test_missing_tokenizer(engine):
    """So is a tokenizer."""
    (engine.parent / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(IncompleteModelError, match="tokenizer"):
        open_pipeline(engine)


def test_short_weights(engine):
    """Weights that end early are an error of the engine, not a crash."""
    path = engine / "high.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    with open_pipeline(engine) as pipeline, pytest.raises(IncompleteModelError, match=r"high\.onnx"):
        pipeline.generate("a", guidance=1.0)


def test_pruned_while_it_runs(engine):
    """When the files go while a clip is made with everything loaded, the clip is finished."""
    import shutil

    with open_pipeline(engine, keep_parts=True) as pipeline:
        pipeline.parts.load_all()
        made = pipeline.generate("a", on_step=lambda *_: shutil.rmtree(engine, ignore_errors=True))
    assert made.shape == (9, 32, 48, 3)
    assert not engine.exists()


def test_pruned_between_experts(engine):
    """Where the second expert has yet to be loaded, its absence is named."""
    import shutil

    with open_pipeline(engine, keep_parts=False) as pipeline, pytest.raises(IncompleteModelError, match="part low"):
        pipeline.generate("a", on_step=lambda *_: shutil.rmtree(engine, ignore_errors=True))


def test_all_zero_layer_runs(engine):
    """A layer of zeros is legal; that its answers are wrong is for the probe to say."""
    change_weights(engine, "low", lambda _name, array: np.zeros_like(array))
    with open_pipeline(engine, prove=True) as pipeline:
        assert pipeline.generate("a").shape == (9, 32, 48, 3)


def test_close_gives_back(shared_engine):
    """A closed engine has nothing loaded, and loads again when it is asked."""
    parts = Parts(read_description(shared_engine), backend("ort-cpu"), threads=1, keep=True)
    parts.load_all()
    parts.close()
    assert parts.loaded == frozenset()
    with parts.session("text") as session:
        assert session.inputs[0].name == "input_ids"
    parts.close()


def test_unknown_backend(shared_engine):
    """A backend that nobody knows is named with those that are."""
    with pytest.raises(ModelError, match="gpu") as caught:
        open_pipeline(shared_engine, "gpu")
    assert "ort-cpu" in caught.value.hint
