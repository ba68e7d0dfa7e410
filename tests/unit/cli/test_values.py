"""What people write becomes values, or an error that shows how to write it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.cli import values
from p2psync.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45), (" 1d ", 86_400)]
)
def test_ages(text, seconds):
    """An age is a number and one unit."""
    assert values.age_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1w", "1d12h", "1.5h", "٣d", "9" * 12 + "s"])
def test_not_ages(text):
    """Anything else is refused with the four units in the hint."""
    with pytest.raises(UsageError) as caught:
        values.age_s(text)
    assert "30d" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500k", 500_000),
        ("2M", 2_000_000),
        ("10Mbit", 1_250_000),
        ("1G", 10**9),
        ("1500", 1500),
        ("1.5M", 1_500_000),
        ("2MB/s", 2_000_000),
        ("8bit", 1),
    ],
)
def test_rates(text, rate):
    """A rate is in bytes per second with decimal units, or in bits where it says so."""
    assert values.rate_bytes_per_s(text) == rate


@pytest.mark.parametrize("text", ["", "0", "fast", "-5", "5 bananas", "1bit", "1e9", "inf", "10Kib"])
def test_not_rates(text):
    """Anything else is refused, and so is less than a byte per second."""
    with pytest.raises(UsageError):
        values.rate_bytes_per_s(text)


@given(st.integers(1, 10**12 - 1))
def test_bare_rates_are_bytes(count):
    """A bare number is that many bytes per second."""
    assert values.rate_bytes_per_s(str(count)) == count


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://models.example/tree/", "https://models.example/tree"),
        ("http://10.0.0.7:7007", "http://10.0.0.7:7007"),
        ("file:///media/x", "file:///media/x"),
        ("/media/a b", "file:///media/a%20b"),
    ],
)
def test_sources(text, url):
    """A source is a URL, or a path that becomes the file URL of what it names."""
    assert values.source_url(text) == url


def test_source_directories(tmp_path, monkeypatch):
    """A bare word is a source when a directory of that name is here; a path with a dot need not be there."""
    (tmp_path / "tree").mkdir()
    monkeypatch.chdir(tmp_path)
    assert values.source_url("tree") == (tmp_path / "tree").as_uri()
    assert values.source_url("./gone") == (tmp_path / "gone").as_uri()


@pytest.mark.parametrize("text", ["", "models.example", "ftp://x/y", "s3://bucket", "http://", "https:///"])
def test_not_sources(text, tmp_path, monkeypatch):
    """Other schemes, a URL without a host and a word that is no directory are refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        values.source_url(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("10.0.0.7:7007", "http://10.0.0.7:7007"),
        ("http://edge-3.local:80/", "http://edge-3.local:80"),
        ("[fe80::1%eth0]:7007", "http://[fe80::1%eth0]:7007"),
    ],
)
def test_peers(text, url):
    """A peer is host:port, with or without http://."""
    assert values.peer_url(text) == url


@pytest.mark.parametrize("text", ["", "host", "host:0", "host:65536", "https://h:1", "file:///x", "h:1/path", "a b:1"])
def test_not_peers(text):
    """Anything else is refused."""
    with pytest.raises(UsageError):
        values.peer_url(text)


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:7007", "127.0.0.1", 7007, True),
        (":7007", "", 7007, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:1", "::1", 1, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("edge-3.local:80", "edge-3.local", 80, False),
    ],
)
def test_listen_addresses(text, host, port, loopback):
    """An address to listen on has a host and a port, and is loopback only where that is certain."""
    address = values.listen_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)


@pytest.mark.parametrize("text", ["", "host", "7007", "host:", "host:x", "host:65536"])
def test_not_listen_addresses(text):
    """Anything else is refused."""
    with pytest.raises(UsageError):
        values.listen_address(text)


def test_paths_are_absolute(tmp_path, monkeypatch):
    """A path is read from here, with ~ replaced; an empty one is refused."""
    monkeypatch.chdir(tmp_path)
    assert values.absolute_path("a/b") == str(tmp_path / "a" / "b")
    assert values.absolute_path("~") == str(Path.home())
    with pytest.raises(UsageError):
        values.absolute_path("")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("", False)])
def test_switches(text, value):
    """The variable of a switch says yes or no."""
    assert values.switch(text) is value


def test_not_a_switch():
    """Anything else is refused."""
    with pytest.raises(UsageError):
        values.switch("maybe")
