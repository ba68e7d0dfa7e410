"""Joining the group of multicast DNS for a moment, and what the kernel says of its bounds."""

import socket

import pytest

from p2psync.transport import multicast


def test_the_port_is_shared_with_those_who_share_it():
    """Another program that shares the port does not stand in the way; one that does not, does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("", 0))
        multicast.join_group("127.0.0.1", other.getsockname()[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        with pytest.raises(OSError, match="in use"):
            multicast.join_group("127.0.0.1", other.getsockname()[1])


def test_an_address_of_no_interface():
    """No interface has it, so nothing can be joined there. 192.0.2.0/24 is for documents (RFC 5737)."""
    with pytest.raises(OSError, match="No such device"):
        multicast.join_group("192.0.2.1", 0)


def test_loopback_carries_no_discovery():
    """Loopback is never among the interfaces that carry multicast."""
    assert "lo" not in multicast.multicast_interfaces()


def test_bounds_of_the_kernel(tmp_path, monkeypatch):
    """They are read where they are, and None where they are not."""
    monkeypatch.setattr(multicast, "_IPV4", tmp_path)
    monkeypatch.setattr(multicast, "_NEIGHBOURS", tmp_path / "arp")
    assert multicast.memberships_max() is None
    assert multicast.neighbours() is None
    (tmp_path / "igmp_max_memberships").write_text("20\n")
    (tmp_path / "neigh" / "default").mkdir(parents=True)
    (tmp_path / "neigh" / "default" / "gc_thresh3").write_text("1024\n")
    assert multicast.neighbours() is None
    (tmp_path / "arp").write_text("IP address HW type\n10.0.0.1 0x1\n10.0.0.2 0x1\n")
    assert multicast.memberships_max() == 20
    assert multicast.neighbours() == (2, 1024)
