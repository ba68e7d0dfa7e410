"""Secrets out of text: what a log shows of a URL, a header or a key.

A log goes to more people than the home it comes from. What is taken out is what grants something: the user part and the
query of a URL (a presigned one is a key), values after the names of credentials, bearer tokens and secret keys.
Digests and public keys stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"
# Of a longer text the rest is left out: the patterns have to read every character.
CHARS_MAX: Final = 16_384
_NAMES: Final = r"authorization|cookie|passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_USER: Final = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)[^\s/?#]*@", re.IGNORECASE)
_QUERY: Final = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://[^\s?#\"'<>]{1,2048})\?[^\s\"'<>#]+", re.IGNORECASE)
_NAMED: Final = re.compile(
    rf"\b([\w-]{{0,40}}(?:{_NAMES})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"',;&]+",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_OWN_KEY: Final = re.compile(r"(p2psync-secret-ed25519:)[0-9a-f]*")
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)


def redacted(text: str) -> str:
    """A text without what grants anything."""
    if len(text) > CHARS_MAX:
        # A word that the cut goes through may be the first half of a secret that no pattern knows any more.
        text = text[:CHARS_MAX].rpartition(" ")[0] + " ..."
    text = _PEM.sub(HIDDEN, text)
    text = _OWN_KEY.sub(rf"\1{HIDDEN}", text)
    text = _USER.sub(r"\1", text)
    text = _QUERY.sub(rf"\1?{HIDDEN}", text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def redacted_value(value: Any, name: str = "") -> Any:
    """The same for a JSON value: texts within it, and whatever stands under the name of a credential."""
    if name and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): redacted_value(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_value(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(str(value))
