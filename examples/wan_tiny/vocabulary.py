"""Make the tokenizer: one piece for each word of the captions, in the format that Wan's own tokenizer is stored in."""

from __future__ import annotations

import collections
import math

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from wan_tiny.captions import LANGUAGES, caption
from wan_tiny.world import sample, split_triples

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
_CAPTIONS = 8000
_SEED = 7
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.▁"
# A lone letter is a last resort, far less likely than any word; what no letter covers is less likely still.
_LETTER_SCORE, _UNKNOWN_SCORE = -14.0, -20.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of all languages and all colours, those to be learned later too: no version changes it.

    The vocabulary is made here and not by a trainer. A Unigram trainer counts substrings over the distinct words, of
    which this world has so few that it would keep little but letters, and a caption would be three times as long.
    """
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Chinese has no spaces. Were a run of it one piece, a new combination would be a piece never seen.
    single = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in ("[㐀-鿿]", "[,，]")]  # noqa: RUF001 - both commas
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), *single])
    counts = collections.Counter(
        word for text in _corpus() for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    total = sum(counts.values())
    pieces = [(PAD, 0.0), (END, 0.0), (UNKNOWN, _UNKNOWN_SCORE)]
    pieces += [(word, math.log(n / total)) for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    pieces += [(letter, _LETTER_SCORE) for letter in sorted({*"".join(counts), *_LETTERS}) if letter not in counts]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=512
    )


def _corpus() -> list[str]:
    rng = np.random.default_rng(_SEED)
    scenes = sample(rng, _CAPTIONS, split_triples().every, two_share=0.3)
    return [caption(scenes, i, language, rng).text for i in range(_CAPTIONS) for language in LANGUAGES]


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    """Return the token numbers of each text, zero after its end, [texts, length].

    Raises:
        ValueError: If a text has more tokens.
    """
    fast = tokenizer.backend_tokenizer
    fast.no_padding()
    fast.no_truncation()
    ids = np.zeros((len(texts), length), np.int16)
    for row, encoding in enumerate(fast.encode_batch(texts)):
        if len(encoding.ids) > length:
            raise ValueError(f"{texts[row]!r} has {len(encoding.ids)} tokens, {length} are allowed")
        ids[row, : len(encoding.ids)] = encoding.ids
    return ids
