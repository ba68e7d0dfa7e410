"""Prompts become ids of the length that the model was trained with, whatever they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.engine.text import Tokenizer, clean
from p2psync.errors import IncompleteModelError, UnfitRequestError
from tests.unit.engine.tiny_engine import LENGTH, edit_json, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text") / "tokenizer"
    write_tokenizer(directory)
    return Tokenizer(directory / "tokenizer.json", LENGTH)


def test_pads_to_the_models_length(tokenizer):
    """Ids end with the end token and are filled with the pad token; the mask says where text stands."""
    tokens = tokenizer.encode("a red circle")
    assert tokens.ids.tolist() == [[3, 4, 5, 1] + [0] * (LENGTH - 4)]
    assert tokens.mask.tolist() == [[1] * 4 + [0] * (LENGTH - 4)]
    assert tokens.ids.dtype == tokens.mask.dtype == np.int64


def test_empty_text_is_the_end_token(tokenizer):
    """Guidance needs the text that says nothing."""
    tokens = tokenizer.encode("")
    assert tokens.mask.sum() == 1
    assert tokens.ids[0, 0] == 1


@pytest.mark.parametrize("prompt", ["مربع", "🟥🟦👩‍👩‍👧‍👦", "红色", "\u202eleft\u202c red", "e\u0301"])
def test_any_script(tokenizer, prompt):
    """Right-to-left text, emoji and unknown words are tokens like others."""
    tokens = tokenizer.encode(clean(prompt))
    assert 2 <= tokens.mask.sum() <= LENGTH


def test_too_many_tokens(tokenizer):
    """A prompt that the model cannot read whole is not cut in silence; the hint says how long it may be."""
    with pytest.raises(UnfitRequestError, match=f"41 tokens; this model reads {LENGTH}") as caught:
        tokenizer.encode(clean("red " * 40))
    assert "characters" in caught.value.hint


@pytest.mark.parametrize(
    ("prompt", "named"),
    [("", "empty"), (" \t\n\u3000", "empty"), ("&nbsp;", "empty"), ("x" * 10_001, "10001"), ("\ud800", "Unicode")],
)
def test_refused_prompts(prompt, named):
    """What says nothing, is endless, or is no text is refused with a hint."""
    with pytest.raises(UnfitRequestError, match=named) as caught:
        clean(prompt)
    assert caught.value.exit_code == 9
    assert caught.value.hint


def test_cleans_like_the_training(tokenizer):
    """Entities are resolved twice and white space becomes one blank."""
    assert clean("  a&amp;amp;b \n c ") == "a&b c"


@given(st.text(max_size=300))
def test_never_anything_else(prompt):
    """Any text is cleaned or refused by name, and cleaning again changes no white space."""
    try:
        cleaned = clean(prompt)
    except UnfitRequestError:
        return
    assert cleaned == " ".join(cleaned.split())


def test_padding_of_the_file_does_not_count(tmp_path):
    """A tokenizer file that pads or truncates to another length is overruled; its pad token is kept."""
    write_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    padding = {"strategy": {"Fixed": 3}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}
    padding |= {"pad_type_id": 0, "pad_token": "<unk>"}
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    edit_json(path, lambda top: top.update(padding=padding, truncation=truncation))
    assert Tokenizer(path, LENGTH).encode("a red circle").ids.tolist() == [[3, 4, 5, 1] + [2] * (LENGTH - 4)]


@pytest.mark.parametrize("text", [None, b"", b"{}", b'{"version": "1.0", "model": {"type": "Nothing"}}', b"\xff"])
def test_broken_files(tmp_path, text):
    """A tokenizer that is missing or broken is named."""
    path = tmp_path / "tokenizer.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(IncompleteModelError, match="tokenizer"):
        Tokenizer(path, LENGTH)


def test_a_file_that_is_no_tokenizer_by_its_length_is_not_read_whole(tmp_path, monkeypatch):
    """Some bytes more than the longest tokenizer, and no more, are held of it."""
    monkeypatch.setattr("p2psync.engine.text.TOKENIZER_BYTES_MAX", 100)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b" " * 101)
    with pytest.raises(IncompleteModelError, match=r"tokenizer\.json is longer than 100 bytes"):
        Tokenizer(path, LENGTH)
