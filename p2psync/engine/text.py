"""From a prompt to token ids of a fixed length: the one home of ``tokenizers``.

Prompts are cleaned as WanPipeline of diffusers does without its optional ftfy: HTML entities are resolved twice, runs
of white space become one blank. Ids are padded to the length that the model was trained with, whatever its file says.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2psync.engine import memory
from p2psync.errors import IncompleteModelError, UnfitRequestError
from p2psync.limits import PROMPT_CHARS_MAX, TOKENIZER_BYTES_MAX

_PAD_TOKEN: Final = "<pad>"  # noqa: S105 - a token of text
_HALVES: Final = re.compile(r"[\ud800-\udfff]")


class Tokens(NamedTuple):
    """One prompt: ``ids`` and ``mask``, both int64 of shape [1, length]. The mask is 1 where a token stands."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class Tokenizer:
    """A tokenizer file, and the length that its model reads."""

    def __init__(self, path: Path, length: int) -> None:
        self._length = length
        self._tokenizer = _open(path)
        padding = self._tokenizer.padding
        found = padding["pad_id"] if padding else self._tokenizer.token_to_id(_PAD_TOKEN)
        self._pad = int(found or 0)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, prompt: str) -> Tokens:
        """Tokens of a cleaned prompt; the empty one has only the token that ends a text.

        Raises:
            UnfitRequestError: it has more tokens than the model reads.
        """
        ids = self._tokenizer.encode(prompt).ids
        if len(ids) > self._length:
            fitting = max(1, len(prompt) * self._length // len(ids))
            raise UnfitRequestError(
                f"the prompt has {len(ids)} tokens; this model reads {self._length}",
                hint=f"shorten it to about {fitting} of its {len(prompt)} characters",
            )
        row = np.full((1, self._length), self._pad, np.int64)
        row[0, : len(ids)] = ids
        return Tokens(row, (np.arange(self._length) < len(ids)).astype(np.int64)[None])


def clean(prompt: str) -> str:
    """The prompt as the model is to read it.

    Raises:
        UnfitRequestError: nothing is left of it, it is longer than 10,000 characters, or it is no Unicode text.
    """
    if len(prompt) > PROMPT_CHARS_MAX:
        raise UnfitRequestError(
            f"the prompt has {len(prompt)} characters; at most {PROMPT_CHARS_MAX} are read", hint="shorten it"
        )
    if _HALVES.search(prompt):
        raise UnfitRequestError("the prompt is no Unicode text", hint="pass it as UTF-8")
    cleaned = " ".join(html.unescape(html.unescape(prompt)).split())
    if not cleaned:
        raise UnfitRequestError("the prompt is empty", hint='say what to show: --prompt "a red circle moves left"')
    return cleaned


def _open(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise memory.unloadable("tokenizers", error, "pip install 'p2psync[engine]'") from error
    try:
        with path.open("rb") as file:
            data = file.read(TOKENIZER_BYTES_MAX + 1)
    except OSError as error:
        raise IncompleteModelError(f"the tokenizer is missing: {path}", hint="pull the version again") from error
    if len(data) > TOKENIZER_BYTES_MAX:
        raise IncompleteModelError(f"{path} is longer than {TOKENIZER_BYTES_MAX} bytes")
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except MemoryError:
        raise
    except Exception as error:
        # The library throws bare exceptions for whatever it does not like.
        raise IncompleteModelError(f"{path} is no tokenizer: {str(error)[:200]}") from error
