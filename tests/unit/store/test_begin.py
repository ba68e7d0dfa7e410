"""What an update takes from the version before is linked or copied, and not fetched where the disk is at fault."""

import errno

import pytest

from p2psync.errors import StoreFullError, StoreUnwritableError
from p2psync.store import linux
from p2psync.store.opened import OpenHome
from tests.stores import WEIGHTS, begin, contents, feed, publish, pull, tensors_of, write_safetensors


@pytest.fixture
def second(seed, node, model):
    """A version of which the node has all but one tensor, in the version before."""
    pull(seed, node, publish(seed, model))
    write_safetensors(model / WEIGHTS, tensors_of(1, {2: 9}))
    return publish(seed, model)


def refuse(monkeypatch, place, name, number):
    """Let the operating system refuse one call."""

    def refusing(*_):
        raise OSError(number, "refused")

    monkeypatch.setattr(place, name, refusing)


FULL = [(errno.ENOSPC, StoreFullError), (errno.EDQUOT, StoreFullError), (errno.EROFS, StoreUnwritableError)]


@pytest.mark.parametrize("fault", FULL, ids=lambda fault: errno.errorcode[fault[0]])
@pytest.mark.parametrize("call", [(OpenHome, "link"), (linux, "copy_range")], ids=["link", "copy"])
def test_a_disk_that_takes_nothing_ends_the_update(seed, node, second, monkeypatch, call, fault):
    """What could not be written is not fetched from outside, to be written to the same disk."""
    number, kind = fault
    refuse(monkeypatch, *call, number)
    with pytest.raises(kind):
        begin(seed, node, second)


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM])
def test_a_file_system_without_links_is_copied_on(seed, node, second, model, monkeypatch, number):
    """Links are a way to save bytes: where there are none, the update comes all the same."""
    refuse(monkeypatch, OpenHome, "link", number)
    incoming = begin(seed, node, second)
    feed(seed, incoming)
    assert contents(incoming.install()) == contents(model)
