"""What grants something never reaches a log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.cli.redacting import CHARS_MAX, HIDDEN, redacted, redacted_value

SECRET = "hunter2Zq81"


@pytest.mark.parametrize(
    "text",
    [
        f"https://joe:{SECRET}@models.example/tree failed",
        f"https://{SECRET}@models.example/tree",
        f"https://joe:a@{SECRET}@models.example/",
        f"GET https://b.s3.example/v1/x?X-Amz-Signature={SECRET}&a=1 gave 403",
        f"HTTPS://h/x?t={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"'Proxy-Authorization': '{SECRET}'",
        f"sent Bearer {SECRET} to it",
        f"password={SECRET}",
        f"P2PSYNC_API_KEY={SECRET}",
        f'{{"token": "{SECRET}"}}',
        f"aws_secret_access_key = {SECRET}",
        f"Cookie: id={SECRET}",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}",
        "p2psync-secret-ed25519:" + "0a" * 32,
    ],
)
def test_secrets_are_taken_out(text):
    """User parts and queries of URLs, credentials by name, bearer tokens and secret keys are not told."""
    assert SECRET not in redacted(text)
    assert "0a0a" not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "acme/llama:v3@b3:" + "ab" * 32 + " is here",
        "ed25519:" + "ab" * 32 + " signed it",
        "http://10.0.0.7:7007 sent other bytes than chunk b3:" + "cd" * 32,
        "the key release; tokenizer.json: damaged",
        "bad signature: the head of acme/llama",
        "write to ops@models.example",
    ],
)
def test_what_is_no_secret_stays(text):
    """Digests, public keys, addresses and ordinary words are told as they are."""
    assert redacted(text) == text


def test_where_a_url_leads_stays():
    """Of a URL its host and path are told."""
    assert redacted("https://u:p@h:1/a/b?q=1#x") == f"https://h:1/a/b?{HIDDEN}#x"


def test_long_text_is_cut_between_words():
    """Of a long text the end is left out, with the word that the cut goes through."""
    text = "x " * (CHARS_MAX // 2 - 5) + f"https://joe:{SECRET}@models.example/"
    assert SECRET[:4] not in redacted(text)
    assert len(redacted(text)) <= CHARS_MAX + 4
    assert redacted("y" * (CHARS_MAX + 1)) == " ..."


def test_values_under_the_names_of_credentials():
    """In fields, what stands under a credential's name is hidden at any depth, and texts are read through."""
    value = {"token": 7, "plain": [f"http://{SECRET}@h/"], "in": {"api-key": SECRET, "n": 1, "none": None}}
    assert redacted_value(value) == {
        "token": HIDDEN,
        "plain": ["http://h/"],
        "in": {"api-key": HIDDEN, "n": 1, "none": None},
    }


@given(st.text(alphabet="ab:/@?=-. \n'\"tokensecretBEGIN", max_size=300))
def test_twice_is_once(text):
    """What was redacted has nothing left to redact."""
    assert redacted(redacted(text)) == redacted(text)
