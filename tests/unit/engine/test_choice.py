"""A variant and a backend are chosen by what was probed; a step down says why."""

from pathlib import Path

import pytest

from p2psync.engine import backends, choice
from p2psync.engine.backends import NAMES, Probe
from p2psync.engine.choice import Candidate, backend_for, candidates, choose
from p2psync.errors import BackendUnavailableError, MemoryShortError, UnsupportedModelError, VariantNotFoundError
from tests.unit.engine.tiny_engine import make_engine

MB = 10**6
# On a processor FP16 takes twice its size.
FP16 = Candidate("fp16", "fp16", 60 * MB)
INT8 = Candidate("int8", "int8", 30 * MB, default=True)
SMALL = Candidate("small", "int8", 5 * MB)
ALL = (FP16, INT8, SMALL)


def cpu(fast=("float32", "int8"), usable=True, precisions=("float16", "float32", "int8")):
    return Probe("ort-cpu", usable, "broken", precisions=frozenset(precisions), fast=frozenset(fast))


def cuda(usable=True, memory_bytes=None):
    kinds = frozenset({"float16", "float32"})
    return Probe("ort-cuda", usable, "no driver", precisions=kinds | {"int8"}, fast=kinds, memory_bytes=memory_bytes)


def torch():
    kinds = frozenset({"float16", "float32"})
    return Probe("torch", usable=True, precisions=kinds | {"int8"}, fast=kinds)


def pick(among, *probes, free=8_000 * MB, **wanted):
    return choose(among, probes=probes, available_bytes=free, **wanted)


def test_default_first():
    """What the publisher chose is taken where it runs."""
    found = pick(ALL, cpu())
    assert (found.candidate, found.backend, found.steps_down) == (INT8, "ort-cpu", ())


def test_no_fast_int8_leads_to_fp16():
    """Without a fast kernel for INT8 the variant of higher precision runs, and says so."""
    found = pick(ALL, cpu(fast=("float32",)))
    assert found.candidate == FP16
    assert found.steps_down == ("int8: no fast kernel for int8 on ort-cpu",)


def test_int8_that_is_alone_runs_without_a_fast_kernel():
    """Where nothing else is here, or it was asked for, the processor runs INT8 slowly, and says so."""
    slow = cpu(fast=("float32",))
    for found in (pick((INT8, SMALL), slow), pick(ALL, slow, variant="int8")):
        assert (found.candidate, found.backend) == (INT8, "ort-cpu")
        assert found.steps_down[0] == "int8: no fast kernel for int8 on ort-cpu"
    assert backend_for("int8", [slow]) == "ort-cpu"
    assert pick((INT8, SMALL), slow, free=10 * MB).candidate == SMALL
    with pytest.raises(BackendUnavailableError):
        pick((INT8,), cuda())
    with pytest.raises(BackendUnavailableError):
        pick((INT8,), cpu(fast=("float32",), precisions=("float32",)))


def test_short_memory_leads_to_small():
    """With too little memory the variants go down in size until one fits, each with its figures."""
    half = Candidate("small", "fp16", 4 * MB)
    found = pick((FP16, INT8, half), cpu(), free=10 * MB)
    assert found.candidate == half
    assert found.steps_down == (
        "int8: needs 30 MB of memory, 10 MB are available",
        "fp16: needs 120 MB of memory, 10 MB are available",
    )


def test_needs_of_the_manifest_count():
    """What the publisher says a variant needs counts where it is more than its weights."""
    hungry = Candidate("int8", "int8", 30 * MB, needs_bytes=900 * MB, default=True)
    assert pick((hungry, SMALL), cpu(), free=1000 * MB).candidate == SMALL
    assert pick((hungry, SMALL), cpu(), free=1200 * MB).candidate == hungry


def test_parts_that_are_exchanged(tmp_path):
    """Only what must be loaded at once has to fit: a node that is short of memory exchanges the experts."""
    split = Candidate("int8", "int8", 30 * MB, turn_bytes=12 * MB)
    assert pick((split,), cpu(), free=16 * MB).candidate == split
    with pytest.raises(MemoryShortError):
        pick((split,), cpu(), free=14 * MB)
    make_engine(tmp_path / "fp32")
    (found,) = candidates(tmp_path / "fp32")
    assert 0 < found.turn_bytes < found.weights_bytes


def test_gpu_takes_fp16_and_never_int8():
    """A GPU is preferred for FP16; its INT8, which is slower, is never picked, even when it is the default."""
    assert pick((FP16,), cuda(), cpu()).backend == "ort-cuda"
    found = pick((INT8, FP16), cuda())
    assert (found.candidate, found.backend) == (FP16, "ort-cuda")
    assert pick((INT8,), cuda(), cpu()).backend == "ort-cpu"


def test_gpu_memory_counts_for_the_gpu():
    """What must fit on the device is compared with the device's memory."""
    half = Candidate("small", "fp16", 5 * MB)
    assert pick((FP16, half), cuda(memory_bytes=20 * MB)).candidate == half


def test_int8_through_torch_is_never_preferred():
    """On a GPU it was measured no faster than 16 bit at any width: a processor with a kernel for it goes first."""
    assert pick((INT8,), torch(), cpu()).backend == "ort-cpu"
    assert pick((INT8, FP16), torch()).candidate == FP16


def torch_on_processor():
    kinds = frozenset({"float16", "float32", "int8"})
    return Probe("torch", usable=True, precisions=kinds, fast=frozenset({"float32"}), processor=True)


def test_torch_without_a_gpu_comes_after_onnxruntime():
    """On processors torch is slower and starts later: it runs what onnxruntime would, where that is not here."""
    named = Candidate("fp16", "fp16", MB, backend="torch")
    for candidate in (FP16, INT8, named):
        assert pick((candidate,), torch_on_processor(), cpu()).backend == "ort-cpu"
    found = pick((INT8, FP16), torch_on_processor(), cpu(usable=False))
    assert (found.candidate, found.backend) == (FP16, "torch")
    assert found.steps_down == ("int8: no fast kernel for int8 on torch",)
    assert pick((INT8,), torch_on_processor(), cpu(usable=False)).backend == "torch"
    assert backend_for("int8", [torch_on_processor()]) == "torch"
    # It leaves no GPU idle: what another backend runs on one goes first.
    assert pick((INT8, FP16), torch_on_processor(), cuda()).backend == "ort-cuda"


def test_torch_is_not_loaded_to_be_passed_over(monkeypatch):
    """Beside onnxruntime and without a GPU nobody asks what torch can do, which takes seconds to find out."""
    asked = []

    def probe(name):
        asked.append(name)
        return Probe(name, usable=name == runs)

    monkeypatch.setattr(backends, "probe", probe)
    monkeypatch.setattr(backends, "_GPU_NODES", ())
    runs = "ort-cpu"
    assert [found.backend for found in backends.probes()] == [name for name in NAMES if name != "torch"]
    runs = "torch"
    assert [found.backend for found in backends.probes()] == list(NAMES)
    asked.clear()
    with pytest.raises(BackendUnavailableError):
        choose(ALL, backend="ort-cuda")
    assert asked == ["ort-cuda"]
    monkeypatch.setattr(backends, "_GPU_NODES", (Path("/"),))
    runs = "ort-cpu"
    assert len(backends.probes()) == len(NAMES)


def test_int8_runs_through_torch_where_nothing_else_does():
    """Slower than 16 bit, and right: better than nothing."""
    assert pick((INT8,), torch()).backend == "torch"


def test_order_of_names():
    """Backends are tried in one order, a processor last; the one that the publisher names goes first."""
    assert NAMES[-1] == "ort-cpu"
    named = Candidate("fp16", "fp16", MB, backend="ort-cpu")
    assert pick((named,), cuda(), cpu()).backend == "ort-cpu"


def test_asked_for():
    """A variant or a backend that was asked for is taken or fails; nothing is taken instead."""
    assert pick(ALL, cpu(), variant="small").candidate == SMALL
    with pytest.raises(VariantNotFoundError, match="'fp8'") as caught:
        pick(ALL, cpu(), variant="fp8")
    assert "fp16, int8, small" in caught.value.hint
    with pytest.raises(BackendUnavailableError, match=r"ort-cuda cannot run here: .*no driver"):
        pick(ALL, cpu(), cuda(usable=False), backend="ort-cuda")
    with pytest.raises(BackendUnavailableError, match="tensorrt"):
        pick(ALL, cpu(), backend="tensorrt")
    assert pick(ALL, cpu(), cuda(), backend="ort-cuda").candidate == FP16


def test_nothing_runs():
    """Where nothing runs, every variant is named with its reason."""
    with pytest.raises(MemoryShortError, match="int8: needs") as short:
        pick(ALL, cpu(), free=MB)
    assert (short.value.needed_bytes, short.value.available_bytes) == (5 * MB, MB)
    with pytest.raises(BackendUnavailableError, match="ort-cpu: broken"):
        pick(ALL, cpu(usable=False))
    with pytest.raises(BackendUnavailableError, match="nothing here runs int8"):
        backend_for("int8", [cuda(usable=False)])


def test_finds_the_engines_of_a_version(tmp_path):
    """The engines of a version are the directories with engine.json in them, with what the manifest says they need."""
    make_engine(tmp_path / "fp16", precision="fp16")
    make_engine(tmp_path / "int8", precision="int8")
    found = candidates(tmp_path, {"int8": ("ort-cpu", 77, True)})
    assert [(c.name, c.precision, c.default, c.needs_bytes) for c in found] == [
        ("fp16", "fp16", False, 0),
        ("int8", "int8", True, 77),
    ]
    assert all(c.weights_bytes > 1000 for c in found)
    assert [c.name for c in candidates(tmp_path / "int8")] == ["int8"]
    with pytest.raises(UnsupportedModelError, match="no engine"):
        candidates(tmp_path / "tokenizer")


def test_probes_this_machine(shared_engine):
    """Without probes of its own, the choice is made from what really runs here."""
    found = choose(candidates(shared_engine))
    assert found.backend in NAMES
    assert choice.backend_for("fp32") == found.backend


def test_a_gpu_is_not_left_idle():
    """INT8 that only the processor runs steps down to what a GPU runs, unless it was asked for by name."""
    found = pick(ALL, cpu(), cuda())
    assert (found.candidate, found.backend) == (FP16, "ort-cuda")
    assert found.steps_down == ("int8: int8 would run on the processor, and ort-cuda runs another variant",)
    assert pick(ALL, cpu(), cuda(), variant="int8").backend == "ort-cpu"
    assert pick((INT8, SMALL), cpu(), cuda()).backend == "ort-cpu"
