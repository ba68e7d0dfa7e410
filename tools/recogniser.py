"""A real text recogniser in ONNX: its weights moved into safetensors, a picture to read, and what it reads."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Smaller initialisers (shapes, axes) stay in the graph, where shape inference looks for them.
_MOVED_BYTES_MIN = 1024
# What PP-OCR recognisers read: lines of this height.
_LINE_PIXELS = 48

Picture = npt.NDArray[np.float32]


def source_model() -> Path:
    """The recogniser as its package ships it, one .onnx file with everything inside."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package rapidocr is not installed")
    return next((Path(found.submodule_search_locations[0]) / "models").glob("*_rec_*.onnx"))


def split(source: Path, folder: Path) -> int:
    """Write ``source`` into ``folder`` as model.onnx beside model.safetensors, which holds the weights.

    Returns:
        Bytes of the weights that moved.
    """
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    model = onnx.load(str(source))
    moved = {t.name: t for t in model.graph.initializer if len(t.raw_data) >= _MOVED_BYTES_MIN}
    folder.mkdir(parents=True)
    weights = folder / "model.safetensors"
    # A tensor name that starts with a slash is refused as a path; the graph keeps its own name.
    save_file({name.lstrip("/"): numpy_helper.to_array(tensor) for name, tensor in moved.items()}, str(weights))
    places = _places(weights)
    for name, tensor in moved.items():
        offset, length = places[name.lstrip("/")]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return sum(length for _offset, length in places.values())


def _places(weights: Path) -> dict[str, tuple[int, int]]:
    import json

    data = weights.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    start = 8 + header_bytes
    header: dict[str, dict[str, Any]] = json.loads(data[8:start])
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def picture_of(text: str) -> Picture:
    """Draw ``text`` as dark letters on light paper, as the recogniser takes it: (1, 3, 48, width), within ±1."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=32)
    left, top, right, bottom = font.getbbox(text)
    paper = Image.new("RGB", (int(right - left) + 24, _LINE_PIXELS), "#f4f1ea")
    place = (12 - left, (_LINE_PIXELS - (bottom - top)) / 2 - top)
    ImageDraw.Draw(paper).text(place, text, font=font, fill="#20242c")
    pixels = np.asarray(paper, dtype=np.float32) / 127.5 - 1.0
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1)[np.newaxis])


def read(model: Path, picture: Picture) -> tuple[npt.NDArray[np.float32], str]:
    """Run ``model`` on ``picture`` by onnxruntime on the CPU.

    Returns:
        The raw output, (1, steps, characters + 2), and the text that it stands for.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread adds in one order, so that equal weights give equal bits.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: picture})[0]
    # Step by step the likeliest character; a repeated one counts once, and index 0 is the blank between two.
    alphabet = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    best = output[0].argmax(axis=1)
    kept = [int(now) for before, now in zip([0, *best[:-1]], best, strict=True) if now not in (0, before)]
    return output, "".join(alphabet[index] for index in kept)
