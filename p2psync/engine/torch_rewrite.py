"""Several operators of a graph become one that torch has a kernel for; what is not recognised stays as it is.

Skeletons write attention and INT8 out in standard operators, for parsers that know nothing else. Every rewrite keeps
what is computed: in the same precision, or where a GPU is asked to be fast, in that of TF32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from p2psync.engine.torch_graph import Node
from p2psync.engine.torch_ops_fused import INTEGER_STEP

# TensorProto.DataType.FLOAT.
_FLOAT: Final = 1


@dataclass(slots=True)
class Draft:
    """A graph that is being rewritten. ``columns`` names the weights that a kernel wants stored by columns."""

    nodes: list[Node]
    constants: dict[str, torch.Tensor]
    outputs: tuple[str, ...]
    columns: set[str] = field(default_factory=set)

    def producers(self) -> dict[str, Node]:
        """The node that gives each name."""
        return {name: node for node in self.nodes for name in node.outputs}

    def uses(self) -> Counter[str]:
        """How often each name is read, as an output of the graph too."""
        return Counter(name for row in (*(node.inputs for node in self.nodes), self.outputs) for name in row)

    def replace(self, change: Callable[[Node], Node | None]) -> None:
        """Put for each node what ``change`` makes of it; None leaves it. What nobody reads any more goes."""
        self.nodes = [change(node) or node for node in self.nodes]
        self._drop_unread()

    def _drop_unread(self) -> None:
        needed, kept = set(self.outputs), list[Node]()
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}


def rewrite(draft: Draft, *, integers: bool, halves: bool) -> None:
    """Rewrite a graph in place.

    Args:
        draft: The graph.
        integers: The device multiplies integers: linear layers between INT8 codes use that.
        halves: The device is fast in float16: what stores its weights so is multiplied so.
    """
    _fuse_attention(draft)
    _fuse_norms(draft)
    if integers:
        _fuse_integers(draft)
    # Only graphs of a clip's tokens: an encoder of text, whose attention has a mask, leaves the range of float16.
    if halves and any(node.operator == "torch:Attention" for node in draft.nodes):
        _fuse_halves(draft)
    _fuse_biases(draft)


def _fuse_attention(draft: Draft) -> None:
    """Product, softmax over the last axis, product. A mask is not recognised: a clip's tokens have none."""
    made, uses = draft.producers(), draft.uses()

    def change(node: Node) -> Node | None:
        if node.operator != "MatMul":
            return None
        softmax = _alone(node.inputs[0], "Softmax", made, uses)
        if softmax is None or softmax.attributes.get("axis", -1) != -1:
            return None
        scores = _alone(softmax.inputs[0], "MatMul", made, uses)
        if scores is None:
            return None
        return Node("torch:Attention", (*scores.inputs, node.inputs[1]), node.outputs, {})

    draft.replace(change)


def _fuse_integers(draft: Draft) -> None:
    """MatMul of two DequantizeLinear, one of codes with one scale, one of weights with a scale per column."""
    made = draft.producers()

    def change(node: Node) -> Node | None:
        codes, weight = (made.get(name) for name in node.inputs) if node.operator == "MatMul" else (None, None)
        if codes is None or weight is None:
            return None
        if not _codes(codes, draft.constants) or not _weight(weight, draft.constants):
            return None
        scale = draft.constants[codes.inputs[1]].reshape(()) * draft.constants[weight.inputs[1]]
        name = f"{node.outputs[0]}/scale"
        draft.constants[name] = scale.expand(draft.constants[weight.inputs[0]].shape[1]).contiguous()
        draft.columns.add(weight.inputs[0])
        return Node("torch:IntegerProduct", (codes.inputs[0], weight.inputs[0], name), node.outputs, {})

    draft.replace(change)
    products = {node.inputs[0] for node in draft.nodes if node.operator == "torch:IntegerProduct"}

    def round_once(node: Node) -> Node | None:
        if node.operator != "QuantizeLinear" or node.outputs[0] not in products:
            return None
        fits = _one_scale(node, draft.constants)
        return Node("torch:Codes", node.inputs[:2], node.outputs, {}) if fits else None

    draft.replace(round_once)


def _codes(node: Node, constants: Mapping[str, torch.Tensor]) -> bool:
    """Whether a node dequantises codes that are computed, signed, around zero, by one scale."""
    return node.operator == "DequantizeLinear" and node.inputs[0] not in constants and _one_scale(node, constants)


def _one_scale(node: Node, constants: Mapping[str, torch.Tensor]) -> bool:
    """Whether the codes of a node are signed and around zero, by one scale that is known."""
    if len(node.inputs) != 3:
        return False
    scale, zero = (constants.get(name) for name in node.inputs[1:])
    if scale is None or zero is None:
        return False
    return scale.numel() == 1 and zero.dtype == torch.int8 and not zero.any()


def _weight(node: Node, constants: Mapping[str, torch.Tensor]) -> bool:
    """Whether a node dequantises an INT8 matrix around zero, by one scale or one per column, of sides that fit."""
    if node.operator != "DequantizeLinear" or len(node.inputs) < 2:
        return False
    found = [constants.get(name) for name in node.inputs]
    codes, scale = found[:2]
    if codes is None or scale is None or codes.dtype != torch.int8 or codes.dim() != 2:
        return False
    columns = scale.numel() == 1 or node.attributes.get("axis", 1) in (1, -1)
    zero = found[2] if len(found) > 2 else None
    centred = len(found) == 2 or (zero is not None and not zero.any())
    return columns and centred and all(side % INTEGER_STEP == 0 for side in codes.shape)


def _fuse_halves(draft: Draft) -> None:
    """MatMul with a matrix that is stored as float16 and widened; where there is one, attention too."""
    made = draft.producers()

    def change(node: Node) -> Node | None:
        cast = made.get(node.inputs[1]) if node.operator == "MatMul" else None
        if cast is None or cast.operator != "Cast" or cast.attributes.get("to") != _FLOAT:
            return None
        stored = draft.constants.get(cast.inputs[0])
        if stored is None or stored.dtype != torch.float16 or stored.dim() != 2:
            return None
        return Node("torch:HalfProduct", (node.inputs[0], cast.inputs[0]), node.outputs, {})

    draft.replace(change)
    if any(node.operator == "torch:HalfProduct" for node in draft.nodes):
        draft.replace(lambda node: _in_half(node) if node.operator == "torch:Attention" else None)


def _in_half(node: Node) -> Node:
    return replace(node, attributes={"half": 1})


def _fuse_norms(draft: Draft) -> None:
    """A vector over the root of the mean of its squares, times a weight, as skeletons write an RMS norm out."""
    made, uses = draft.producers(), draft.uses()

    def change(node: Node) -> Node | None:
        if node.operator != "Mul":
            return None
        for name, weight in (node.inputs, node.inputs[::-1]):
            found = _norm(name, made, uses, draft.constants)
            if found is not None and weight in draft.constants and draft.constants[weight].dim() == 1:
                values, epsilon = found
                attributes = {"axis": -1, "epsilon": epsilon}
                return Node("SimplifiedLayerNormalization", (values, weight), node.outputs, attributes)
        return None

    draft.replace(change)


def _norm(
    name: str, made: Mapping[str, Node], uses: Mapping[str, int], constants: Mapping[str, torch.Tensor]
) -> tuple[str, float] | None:
    """What is normed, and the epsilon; None where ``name`` is no normed vector."""
    path = [name]
    for operator, place in (("Div", 1), ("Sqrt", 0), ("Add", 0), ("ReduceMean", 0), ("Pow", 0)):
        node = _alone(path[-1], operator, made, uses)
        if node is None:
            return None
        path.append(node.inputs[place])
    nodes = [made[step] for step in path[:-1]]
    divide, _, add, mean, power = nodes
    numbers = [constants.get(step) for step in (add.inputs[1], mean.inputs[-1], power.inputs[1])]
    epsilon, axes, exponent = (None if value is None or value.numel() != 1 else value.item() for value in numbers)
    squares = exponent == 2 and axes == -1 and len(mean.inputs) == 2 and mean.attributes.get("keepdims", 1) == 1
    return (path[-1], epsilon) if squares and epsilon is not None and divide.inputs[0] == path[-1] else None


def _fuse_biases(draft: Draft) -> None:
    """A product that is read by one Add, of a vector of its width."""
    made, uses = draft.producers(), draft.uses()

    def change(node: Node) -> Node | None:
        if node.operator != "Add":
            return None
        for name, other in (node.inputs, node.inputs[::-1]):
            product, bias = made.get(name), draft.constants.get(other)
            if product is None or uses[name] != 1 or bias is None or bias.dim() != 1:
                continue
            width = _width(product, draft, made)
            if width == bias.shape[0]:
                operator = "torch:Linear" if product.operator == "MatMul" else product.operator
                return replace(product, operator=operator, inputs=(*product.inputs, other), outputs=node.outputs)
        return None

    draft.replace(change)


def _width(product: Node, draft: Draft, made: Mapping[str, Node]) -> int | None:
    """The columns of a product with a constant matrix; None where it is no such product."""
    if product.operator not in ("MatMul", "torch:HalfProduct", "torch:IntegerProduct"):
        return None
    name = product.inputs[1]
    source = made.get(name)
    if source is not None and source.operator in ("Cast", "DequantizeLinear"):
        name = source.inputs[0]
    matrix = draft.constants.get(name)
    return matrix.shape[1] if matrix is not None and matrix.dim() == 2 else None


def _alone(name: str, operator: str, made: Mapping[str, Node], uses: Mapping[str, int]) -> Node | None:
    """The node of that operator that gives ``name`` to one reader."""
    node = made.get(name)
    return node if node is not None and node.operator == operator and uses[name] == 1 else None
