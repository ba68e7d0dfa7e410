"""Which operators torch runs for us: the published ones and those that ``torch_rewrite`` makes of several of them.

What a node asks is checked when its graph is opened, so that nothing is found out in the middle of a clip.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from p2psync.engine import torch_ops_fused, torch_ops_layers, torch_ops_math, torch_ops_shape
from p2psync.engine.torch_graph import Attribute, Node
from p2psync.errors import UnsupportedModelError

OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    **torch_ops_math.OPERATORS,
    **torch_ops_shape.OPERATORS,
    **torch_ops_layers.OPERATORS,
    **torch_ops_fused.OPERATORS,
}
# Attributes that a function does not take, because of them only these values are run.
_ONLY: Final[Mapping[tuple[str, str], frozenset[Attribute]]] = {
    ("Conv", "auto_pad"): frozenset({"NOTSET", "VALID"}),
    ("GatherND", "batch_dims"): frozenset({0}),
    ("LayerNormalization", "stash_type"): frozenset({1}),
    ("SimplifiedLayerNormalization", "stash_type"): frozenset({1}),
    ("Pad", "mode"): frozenset({"constant"}),
    ("Resize", "antialias"): frozenset({0}),
    ("Resize", "coordinate_transformation_mode"): frozenset({"asymmetric", "half_pixel"}),
    ("Resize", "exclude_outside"): frozenset({0}),
    ("Resize", "keep_aspect_ratio_policy"): frozenset({"stretch"}),
    ("Resize", "mode"): frozenset({"nearest"}),
    ("Resize", "nearest_mode"): frozenset({"floor", "round_prefer_floor"}),
    ("com.microsoft:RotaryEmbedding", "rotary_embedding_dim"): frozenset({0}),
    ("com.microsoft:RotaryEmbedding", "scale"): frozenset({1.0}),
}
# And those that change nothing: other inputs say the same, or they are about what is not run.
_SILENT: Final = frozenset(
    {
        ("Cast", "saturate"),
        ("Conv", "kernel_shape"),
        ("QuantizeLinear", "saturate"),
        ("Resize", "cubic_coeff_a"),
        ("Resize", "extrapolation_value"),
        ("com.microsoft:MultiHeadAttention", "mask_filter_value"),
        ("com.microsoft:RotaryEmbedding", "num_heads"),
    }
)
# Operators that give several values; of the others, what stands behind the first is not computed.
_SEVERAL: Final = frozenset({"Split"})


def arguments(node: Node, name: str) -> dict[str, Attribute]:
    """The attributes that a node's function takes, once it is known that torch runs all that the node asks.

    Raises:
        UnsupportedModelError: it does not; the operator is named.
    """
    operator = node.operator
    if operator not in OPERATORS:
        raise _refusal(name, f"operator {operator}")
    inputs_max, known = _signature(operator)
    if len(node.inputs) > inputs_max:
        raise _refusal(name, f"operator {operator} with {len(node.inputs)} inputs")
    if len(node.outputs) > 1 and operator not in _SEVERAL:
        raise _refusal(name, f"operator {operator} with {len(node.outputs)} outputs")
    for key, value in node.attributes.items():
        place = (operator, key)
        if key not in known and place not in _SILENT and value not in _ONLY.get(place, ()):
            raise _refusal(name, f"operator {operator} with {key}={value}")
    return {key: value for key, value in node.attributes.items() if key in known}


@cache
def _signature(operator: str) -> tuple[float, frozenset[str]]:
    """How many inputs a function takes at most, and its attributes. Functions of torch itself take no attributes."""
    try:
        parameters = inspect.signature(OPERATORS[operator]).parameters.values()
    except ValueError:
        return float("inf"), frozenset()
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    named = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return float("inf") if many else float(places), named


def _refusal(name: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} holds {what}, which torch does not run here", hint="take another backend")
