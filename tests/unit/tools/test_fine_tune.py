"""What is learnt, and from what, follows from the seed."""

from __future__ import annotations

import re

from fine_tune import SentencePairs, Tuning

WORDS = [f"{one}{other}" for one in "bdfgk" for other in ("ab", "en", "id", "ut")]


def test_the_same_seed_makes_the_same_sentences():
    """Batch after batch."""
    one, other, stranger = SentencePairs(7, WORDS), SentencePairs(7, WORDS), SentencePairs(8, WORDS)
    first = one.batch(16)
    assert first == other.batch(16) != stranger.batch(16)
    assert one.batch(16) == other.batch(16) != first


def test_a_pair_says_the_same():
    """Every word that was drawn stands in both, in another order."""
    for sentence, same in zip(*SentencePairs(7, WORDS).batch(20), strict=True):
        drawn = [[word for word in re.findall(r"\w+", text) if word in WORDS] for text in (sentence, same)]
        assert sorted(drawn[0]) == sorted(drawn[1])
        assert len(drawn[0]) == 8
        assert sentence != same


def test_common_words_come_often_and_rare_ones_come():
    """The first of twenty should be met about twenty times as often as the last."""
    text = " ".join(SentencePairs(7, WORDS).batch(2000)[0])
    first, last = (len(re.findall(rf"\b{word}\b", text)) for word in (WORDS[0], WORDS[-1]))
    assert 14 <= first / last <= 28


def test_layers_that_are_not_named_do_not_learn():
    """Nor does layer 14 where layer 1 does."""
    last = Tuning("last", 2e-5, 60, (1,))
    assert last.learns("encoder.layer.1.output.dense.weight")
    assert not last.learns("encoder.layer.14.output.dense.weight")
    assert not last.learns("embeddings.word_embeddings.weight")
    assert Tuning("all", 2e-5, 60).learns("embeddings.word_embeddings.weight")
