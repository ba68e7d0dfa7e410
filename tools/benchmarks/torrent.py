"""A BitTorrent v2 seed and leech by libtorrent, each a process of its own.

usage: torrent.py make FILE TORRENT | seed FOLDER TORRENT PORT | leech FOLDER TORRENT PORT
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import libtorrent

_PIECE_BYTES = 1 << 20
# No discovery and no encryption, TCP alone. Buffers, queues and threads stay at their defaults and the seed takes
# the library's own high-performance preset: larger buffers, more threads and other piece sizes were no faster.
_SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1,
    # Always pwrite; it was the fastest of the three ways to write.
    "disk_write_mode": 1,
    "alert_mask": libtorrent.alert.category_t.status_notification,
}


def make(file: Path, torrent: Path) -> None:
    """Hash ``file`` and write its v2 torrent."""
    with warnings.catch_warnings():
        # The older of two ways to list files is there in every 2.x.
        warnings.simplefilter("ignore")
        storage = libtorrent.file_storage()
        libtorrent.add_files(storage, str(file))
        created = libtorrent.create_torrent(storage, _PIECE_BYTES, libtorrent.create_torrent.v2_only)
        libtorrent.set_piece_hashes(created, str(file.parent))
    torrent.write_bytes(libtorrent.bencode(created.generate()))


def _join(folder: Path, torrent: Path, settings: dict[str, Any], flags: int) -> tuple[Any, Any]:
    session = libtorrent.session(settings)
    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(str(torrent))
    wanted.save_path = str(folder)
    wanted.flags = flags
    return session, session.add_torrent(wanted)


def seed(folder: Path, torrent: Path, port: int) -> None:
    """Seed what stands in ``folder`` until standard input ends."""
    settings = {**libtorrent.high_performance_seed(), **_SETTINGS, "listen_interfaces": f"127.0.0.1:{port}"}
    session, handle = _join(folder, torrent, settings, libtorrent.torrent_flags.seed_mode)
    while not handle.status().is_seeding or not session.is_listening():
        time.sleep(0.01)
    print("seeding", flush=True)
    sys.stdin.read()


def leech(folder: Path, torrent: Path, port: int) -> None:
    """Fetch from the seed at ``port`` into ``folder``, proved, and make it durable."""
    session, handle = _join(folder, torrent, _SETTINGS, 0)
    handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        session.wait_for_alert(50)
        session.pop_alerts()
    name = handle.torrent_file().name()
    # Destroying the session closes its files, so that everything is with the kernel before it is synced.
    session.remove_torrent(handle)
    del handle, session
    descriptor = os.open(folder / name, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.close(descriptor)


def main(arguments: list[str]) -> None:
    """Play one role."""
    role, place, torrent, *rest = arguments
    if role == "make":
        make(Path(place), Path(torrent))
    else:
        (seed if role == "seed" else leech)(Path(place), Path(torrent), int(rest[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
