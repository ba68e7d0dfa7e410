"""Engine directories of a few kilobytes: real graphs with weights in safetensors, small enough for every test.

The "model" is a joke with the shape of the real one: the text moves a colour, the two experts pull latents towards it
by different weights, the decoder maps four latent channels to RGB, keeps one latent frame as its cache, and gives one
frame first and four later. Every weight is external data in a safetensors file beside its skeleton.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from p2psync.content import Digest
from p2psync.engine.probe import record_at

CHANNELS = 4
WIDTH = 8
LENGTH = 12
WORDS = ("a", "red", "circle", "moves", "left", "blue", "square", "and", "مربع", "红色")
BUNDLE_SEED = 5
PROBE_INPUTS = {"prompt": "a red circle", "seed": 7}


def make_engine(directory, *, precision="fp32", experts=("high", "low"), seed=BUNDLE_SEED, second=False, **changes):
    """Write an engine and its tokenizer (beside it) and return its directory. ``changes`` replace top-level fields."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    random = np.random.RandomState(seed)
    write_tokenizer(directory.parent / "tokenizer")
    parts = {"text": text_part(directory, random)}
    for name in experts:
        parts[name] = expert_part(directory, name, random)
    colours = {"colours": random.standard_normal((CHANNELS, 3)).astype(np.float32)}
    parts["decode_first"] = decoder_part(directory, "decode_first", colours, first=True)
    parts["decode_next"] = decoder_part(directory, "decode_next", colours, first=False)
    if second:
        parts["decode_second"] = decoder_part(directory, "decode_second", colours, first=False)
    value = {
        "format": 1,
        "pipeline": "wan",
        "name": "demo/tiny",
        "precision": precision,
        "parts": parts,
        "sampling": {
            "steps": 4,
            "guidance": 1.5,
            "boundary_ratio": 0.875,
            "flow_shift": 3.0,
            "train_timesteps": 1000,
            "max_sequence_length": LENGTH,
            "scheduler": "unipc",
        },
        "video": {"height": 32, "width": 48, "frames": 9, "fps": 8, "frames_step": 4, "size_step": 16},
        "latent": {"channels": CHANNELS, "spatial": 8, "temporal": 4, "mean": [0.1, 0, 0, 0], "std": [1, 2, 1, 0.5]},
        "tokenizer": "../tokenizer/tokenizer.json",
        "cost": {
            "expert": {"hidden": 64, "layers": 2, "heads": 2, "ffn": 128, "patch": [1, 2, 2]},
            "text": {"hidden": 8, "layers": 1, "heads": 1, "ffn": 16},
            "decoder": {"base": 8, "multipliers": [1, 2, 4, 4], "blocks": 1},
        },
    }
    write_json(directory / "engine.json", value | changes)
    return directory


def with_probe(directory):
    """Write the golden probe of an engine's own answers into it, and return its directory."""
    write_json(directory / "probe.json", record_at(str(directory), PROBE_INPUTS))
    return directory


def write_json(path, value):
    path.write_text(json.dumps(value))


def edit_json(path, edit):
    """Change a JSON file in place by a function."""
    value = json.loads(path.read_text())
    edit(value)
    write_json(path, value)


def write_tokenizer(directory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    directory.mkdir(exist_ok=True)
    vocabulary = {word: at for at, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))


def text_part(directory, random):
    weights = {
        "table": random.standard_normal((len(WORDS) + 3, WIDTH)).astype(np.float32),
        "mix": random.standard_normal((WIDTH, WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "mix"], ["mixed"]),
        # The mask is an input that must be used; adding nothing is use enough.
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["column"]),
        helper.make_node("Mul", ["column", "zero"], ["nothing"]),
        helper.make_node("Add", ["mixed", "nothing"], ["hidden"]),
    ]
    inside = [constant("last", np.array([2], np.int64)), constant("zero", np.zeros((1,), np.float32))]
    inputs = [("input_ids", "int64", ["b", "s"]), ("mask", "int64", ["b", "s"])]
    return write_part(directory, "text", nodes, inputs, [("hidden", "float32", ["b", "s", WIDTH])], weights, inside)


def expert_part(directory, name, random):
    weights = {"pull": (random.standard_normal((WIDTH, CHANNELS)) * 0.3).astype(np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["text", "middle"], ["meaning"], keepdims=0),
        helper.make_node("MatMul", ["meaning", "pull"], ["colour"]),
        helper.make_node("Unsqueeze", ["colour", "places"], ["wanted"]),
        helper.make_node("Mul", ["timestep", "per_mille"], ["noise"]),
        helper.make_node("Unsqueeze", ["noise", "all_but_first"], ["level"]),
        helper.make_node("Mul", ["latents", "level"], ["pulled"]),
        helper.make_node("Sub", ["pulled", "wanted"], ["velocity"]),
    ]
    inside = [
        constant("middle", np.array([1], np.int64)),
        constant("places", np.array([2, 3, 4], np.int64)),
        constant("all_but_first", np.array([1, 2, 3, 4], np.int64)),
        constant("per_mille", np.array([1e-3 if name == "high" else 8e-4], np.float32)),
    ]
    inputs = [
        ("latents", "float32", ["b", CHANNELS, "t", "h", "w"]),
        ("timestep", "float32", ["b"]),
        ("text", "float32", ["b", "s", WIDTH]),
    ]
    outputs = [("velocity", "float32", ["b", CHANNELS, "t", "h", "w"])]
    return write_part(directory, name, nodes, inputs, outputs, weights, inside)


def decoder_part(directory, name, weights, *, first):
    mixed = "latents" if first else "blended"
    nodes = [] if first else [helper.make_node("Mean", ["latents", "cache_0"], ["blended"])]
    nodes += [
        helper.make_node("Transpose", [mixed], ["last"], perm=[0, 2, 3, 4, 1]),
        helper.make_node("MatMul", ["last", "colours"], ["rgb"]),
        helper.make_node("Tanh", ["rgb"], ["bounded"]),
        helper.make_node("Transpose", ["bounded"], ["small"], perm=[0, 4, 1, 2, 3]),
        helper.make_node("Resize", ["small", "", "scales"], ["frames"], mode="nearest"),
        helper.make_node("Identity", ["latents"], ["next_0"]),
    ]
    inside = [constant("scales", np.array([1, 1, 1 if first else 4, 8, 8], np.float32))]
    latent = ["b", CHANNELS, 1, "h", "w"]
    inputs = [("latents", "float32", latent), *([] if first else [("cache_0", "float32", latent)])]
    outputs = [("frames", "float32", ["b", 3, 1 if first else 4, "H", "W"]), ("next_0", "float32", latent)]
    return write_part(directory, name, nodes, inputs, outputs, weights, inside, file="decode.safetensors")


def constant(name, array):
    return numpy_helper.from_array(array, name)


def write_part(directory, name, nodes, inputs, outputs, weights, inside, *, file=None):  # noqa: PLR0917 - as in a graph
    """Write one part and return what engine.json says of it."""
    file = file or f"{name}.safetensors"
    save_file(weights, directory / file)
    outside = [external(key, array, directory / file) for key, array in weights.items()]
    values = [
        [helper.make_tensor_value_info(n, onnx_type(kind), dims) for n, kind, dims in row] for row in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, name, *values, initializer=[*inside, *outside])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    skeleton = directory / f"{name}.onnx"
    skeleton.write_bytes(model.SerializeToString())
    return {
        "skeleton": skeleton.name,
        "weights": file,
        "skeleton_digest": str(Digest.of(skeleton.read_bytes())),
        "weights_digest": str(Digest.of((directory / file).read_bytes())),
        "inputs": [list(row) for row in inputs],
        "outputs": [list(row) for row in outputs],
    }


def external(name, array, path):
    """An initialiser that points into a safetensors file."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    begin, end = header[name]["data_offsets"]
    tensor = TensorProto(name=name, data_type=onnx_type(str(array.dtype)), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", path.name), ("offset", str(8 + length + begin)), ("length", str(end - begin))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def onnx_type(dtype):
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def reseal(directory, part):
    """Write the digests of a part's files, as they are now, into engine.json."""

    def edit(value):
        said = value["parts"][part]
        for key in ("skeleton", "weights"):
            said[f"{key}_digest"] = str(Digest.of((directory / said[key]).read_bytes()))

    edit_json(directory / "engine.json", edit)


def change_weights(directory, part, change):
    """Replace a part's tensors by ``change(name, array)`` and seal it again: right bytes, other answers."""
    from safetensors.numpy import load_file

    said = json.loads((directory / "engine.json").read_text())["parts"]
    path = directory / said[part]["weights"]
    # The library writes the memory of a view, whatever its strides say.
    changed = {name: np.ascontiguousarray(change(name, array.copy())) for name, array in load_file(path).items()}
    save_file(changed, path)
    for name in said:
        if said[name]["weights"] == said[part]["weights"]:
            reseal(directory, name)
