"""URLs of sources are taken apart once, and what is no source's URL is the caller's error."""

from __future__ import annotations

import pytest

from p2psync.errors import UsageError
from p2psync.transport import SourceKind, connect
from p2psync.transport.endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://h", "h", 80, "/", "h"),
        ("http://h:80/", "h", 80, "/", "h"),
        ("https://h:443/a/b//", "h", 443, "/a/b/", "h"),
        ("http://h:8080/a%20b", "h", 8080, "/a%20b/", "h:8080"),
        ("http://[::1]:9/x", "::1", 9, "/x/", "[::1]:9"),
        ("http://[fe80::1%25eth0]:9", "fe80::1%eth0", 9, "/", "[fe80::1]:9"),
        ("http://user:secret@h/", "h", 80, "/", "h"),
    ],
)
def test_url_is_taken_apart(url: str, host: str, port: int, path: str, authority: str) -> None:
    """Host, port, base path and Host header are those of the URL; a scope stays out of the header."""
    endpoint = parse_endpoint(url)
    assert (endpoint.host, endpoint.port, endpoint.path, endpoint.authority) == (host, port, path, authority)
    assert endpoint.login == ("user:secret" if "@" in url else "")
    assert "secret" not in endpoint.url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "ftp://h/",
        "http://",
        "http:///x",
        "http://h:0x50/",
        "http://h:99999/",
        "http://[::zz]/",
        "http://[::1/",
        "http://h/a?b=c",
        "http://h/#x",
        "http://h/a b",
        "http://h/\u00fc",
        "file://host/x",
        "file:x",
        "file:///a?b",
        "file:///%00",
        "s3://bucket/x",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """Only http, https and file URLs of this machine name a source."""
    with pytest.raises(UsageError):
        connect(url, SourceKind.WAN)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h:99999/", "not a URL"),
        ("http://[::zz]/", "not a URL"),
        ("ftp://h/", "not an http or https URL"),
        ("http:///x", "not an http or https URL"),
        ("http://h/a?b=c", "has no query and no fragment"),
        ("http://h/#x", "has no query and no fragment"),
        ("http://h/a b", "must be percent-encoded"),
        ("http://h/\u00fc", "must be percent-encoded"),
        ("file://host/x", "not a file URL of this machine"),
        ("file:///a?b", "not a file URL of this machine"),
        ("file:x", "not an absolute path"),
        ("file:///%00", "not an absolute path"),
    ],
)
def test_each_url_is_refused_by_its_own_rule(url: str, message: str) -> None:
    """What is wrong with it is said before anybody is dialled."""
    with pytest.raises(UsageError, match=message):
        connect(url, SourceKind.WAN)


def test_proxy_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy follows scheme and exceptions, as for other programs."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert parse_endpoint("http://h/").proxy() is None
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("https_proxy", "http://p:2")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert parse_endpoint("http://h/").proxy() == "http://p:1"
    assert parse_endpoint("https://h/").proxy() == "http://p:2"
    assert parse_endpoint("http://inside.example/").proxy() is None
