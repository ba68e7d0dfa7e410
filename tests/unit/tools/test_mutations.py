"""The list of checks is that of the source: one that moved, went or came is noticed by the ordinary tests."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

import environment
from mutate import LIST, switches

SWITCHES = {switch.id for switch in switches(environment.ROOT)}
LISTED = {entry["check"]: entry for entry in json.loads(LIST.read_text())["checks"]}
# Caps of the network that no test is known to notice: what is left to do.
OPEN = frozenset(
    [
        "CONNECT_TIMEOUT_S",
        "RESPONSE_TIMEOUT_S",
        "RATE_MIN_BYTES_PER_S",
        "RATE_WINDOW_S",
        "PIPELINE_REQUESTS_MAX",
        "CONNECTIONS_PER_ADDRESS_MAX",
        "SERVE_RATE_MIN_BYTES_PER_S",
        "SERVE_TIMEOUT_S",
        "SERVE_PIECE_BYTES_MAX",
        "CONTROL_LINE_BYTES_MAX",
        "CONTROL_CONNECTIONS_MAX",
        "HELLO_BYTES_MAX",
        "CHANNEL_QUEUE_MESSAGES_MAX",
        "CHANNEL_SILENCE_S",
        "CHANNEL_CLOSE_TIMEOUT_S",
        "HANDSHAKES_MAX",
        "CHANNELS_PER_ADDRESS_MAX",
        "ANNOUNCED_ADDRESSES_MAX",
        "LOOKUP_TIMEOUT_S",
        "PLACES_MAX",
        "PLACES_PER_NODE_MAX",
        "DIALS_MAX",
        "READERS_MAX",
        "HOLDINGS_CHUNKS_MAX",
        "INDEXES_IN_MESSAGE_MAX",
        "RECORDS_KEPT_MAX",
        "LAN_REQUESTS_MAX",
    ]
)


def test_each_check_and_each_cap_is_listed():
    """Whoever writes a new refusal runs tools/mutate.py --find, and sees whether a test notices it."""
    assert sorted(SWITCHES ^ LISTED.keys()) == []


def test_each_test_that_is_named_exists():
    """By its file and its function; what stands in brackets behind it is made when tests are collected."""
    for entry in LISTED.values():
        file, _, name = entry["test"].partition("::")
        function = re.sub(r"\[.*", "", name).rpartition("::")[2]
        assert not file or re.search(rf"def {function}\(", (environment.ROOT / file).read_text()), entry["test"]


def test_what_nobody_notices_is_known():
    """A check that can be switched off unnoticed is either not needed or not tested; of these, nobody knows yet."""
    assert {name for name, entry in LISTED.items() if not entry["test"]} == {f"p2psync/limits.py:{cap}" for cap in OPEN}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_is_noticed_still():
    """Each is switched off alone, and its test fails; in an environment with torch those that are reached there."""
    words = ["--torch"] if importlib.util.find_spec("torch") else []
    command = [sys.executable, "tools/mutate.py", *words]
    done = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
