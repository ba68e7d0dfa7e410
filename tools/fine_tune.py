"""Real fine-tuning of a small sentence encoder on the CPU: a BERT, made-up sentences, a contrastive loss, AdamW."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_HEADS = 12
_NORM_EPSILON = 1e-12
_BATCH = 32
# Of the softmax over a batch (SimCSE, https://arxiv.org/abs/2104.08821).
_TEMPERATURE = 0.05
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a version is made. ``layers`` are those of the encoder that learn; all of the model when empty."""

    name: str
    rate: float
    steps: int
    layers: tuple[int, ...] = ()

    def learns(self, tensor: str) -> bool:
        """Whether the named tensor is among those that learn."""
        return not self.layers or tensor.startswith(tuple(f"encoder.layer.{layer}." for layer in self.layers))


class SentencePairs:
    """Endless made-up pairs that say the same in another order; the same seed and words give the same pairs.

    The words come as in texts, the one of rank n as often as 1 / n says, so a fine-tune meets some thousand different
    ones: how many rows of the embeddings it touches is half of what its delta is.
    """

    _DEEDS = (("repaired", "fixed"), ("bought", "purchased"), ("found", "discovered"), ("showed", "presented"))
    _TIMES = ("yesterday", "on monday", "last winter", "before noon", "in the evening", "two weeks ago")

    def __init__(self, seed: int, words: Sequence[str]) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._words = words
        self._shares = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def batch(self, size: int) -> tuple[list[str], list[str]]:
        """``size`` sentences, and the same facts said differently."""
        pairs = [self._pair() for _ in range(size)]
        return [one for one, _ in pairs], [other for _, other in pairs]

    def _pair(self) -> tuple[str, str]:
        deed, same_deed = self._random.choice(self._DEEDS)
        when = self._random.choice(self._TIMES)
        who, mark, thing, place, reason, friend, topic, end = self._random.choices(
            self._words, cum_weights=self._shares, k=8
        )
        spoke = f"{friend} spoke of {topic} and {end}"
        return (
            f"{who} {deed} the {mark} {thing} near {place} {when} for {reason}, and {spoke}.",
            f"{when} near {place}, {spoke}; for {reason} the {mark} {thing} was {same_deed} by {who}.",
        )


def tuned(base: Mapping[str, Floats], tokenizer: Path, tuning: Tuning, seed: int) -> dict[str, Floats]:
    """The tensors after ``tuning``; those that do not learn are the base's own.

    The result is the same on one machine with one version of torch.
    """
    import torch

    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(_THREADS)
    torch.manual_seed(seed)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in base.items()}
    learning = [tensor.requires_grad_() for name, tensor in tensors.items() if tuning.learns(name)]
    optimizer = torch.optim.AdamW(learning, lr=tuning.rate)
    read, pairs = _reader(tokenizer), SentencePairs(seed, _words(tokenizer))
    for _ in range(tuning.steps):
        one, other = (_embedded(tensors, *read(sentences)) for sentences in pairs.batch(_BATCH))
        likeness = one @ other.T / _TEMPERATURE
        # The right partner of each sentence stands on the diagonal, every other sentence of the batch is a wrong one.
        loss = torch.nn.functional.cross_entropy(likeness, torch.arange(_BATCH))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _words(path: Path) -> list[str]:
    """The whole words that a tokenizer knows, commonest first: a BERT's vocabulary stands in that order."""
    from tokenizers import Tokenizer

    known = sorted(Tokenizer.from_file(str(path)).get_vocab().items(), key=lambda entry: entry[1])
    return [word for word, _number in known if len(word) > 2 and word.isascii() and word.isalpha()]


def _reader(path: Path) -> Any:
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding()

    def read(sentences: Sequence[str]) -> tuple[Any, Any]:
        encoded = tokenizer.encode_batch(list(sentences))
        return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])

    return read


def _embedded(tensors: Mapping[str, Any], ids: Any, mask: Any) -> Any:
    """Mean-pooled unit vectors, shape (sentences, width). BERT as in https://arxiv.org/abs/1810.04805, no dropout."""
    import torch

    positions = torch.arange(ids.shape[1])
    table = "embeddings.{}_embeddings.weight".format
    hidden = torch.nn.functional.embedding(ids, tensors[table("word")]) + tensors[table("position")][positions]
    hidden = _norm(tensors, "embeddings.LayerNorm", hidden + tensors[table("token_type")][0])
    bias = torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf)[:, None, None, :]
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in tensors:
        hidden = _layer(tensors, f"encoder.layer.{layer}", hidden, bias)
        layer += 1
    weight = mask[..., None].float()
    return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def _layer(tensors: Mapping[str, Any], name: str, hidden: Any, bias: Any) -> Any:
    import torch

    rows, length, width = hidden.shape
    query, key, value = (
        _linear(tensors, f"{name}.attention.self.{part}", hidden)
        .view(rows, length, _HEADS, width // _HEADS)
        .transpose(1, 2)
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(2, 3) / (width // _HEADS) ** 0.5 + bias
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(rows, length, width)
    mixed = _linear(tensors, f"{name}.attention.output.dense", mixed)
    hidden = _norm(tensors, f"{name}.attention.output.LayerNorm", mixed + hidden)
    wide = torch.nn.functional.gelu(_linear(tensors, f"{name}.intermediate.dense", hidden))
    return _norm(tensors, f"{name}.output.LayerNorm", _linear(tensors, f"{name}.output.dense", wide) + hidden)


def _linear(tensors: Mapping[str, Any], name: str, values: Any) -> Any:
    import torch

    return torch.nn.functional.linear(values, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _norm(tensors: Mapping[str, Any], name: str, values: Any) -> Any:
    import torch

    weight = tensors[f"{name}.weight"]
    return torch.nn.functional.layer_norm(values, weight.shape, weight, tensors[f"{name}.bias"], _NORM_EPSILON)
