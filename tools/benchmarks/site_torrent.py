"""One member of a BitTorrent v2 swarm by libtorrent, a process of its own.

usage: site_torrent.py FOLDER TORRENT ADDRESS:PORT [--seed] [--super] [ADDRESS:PORT of another member]...

It prints ``ready`` when it listens, joins at the first line of standard input, prints ``done`` when it has
everything, and goes on sharing until standard input ends; then it prints the payload bytes that it sent.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libtorrent

# TCP alone, since uTP backs off at every lost packet; no discovery, since every member is named; nobody is choked.
_SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "unchoke_slots_limit": -1,
    "alert_mask": libtorrent.alert.category_t.status_notification,
}


def main(arguments: list[str]) -> None:
    """Take part."""
    folder, torrent, own, *others = arguments
    seeds, is_super = "--seed" in others, "--super" in others
    session = libtorrent.session({**_SETTINGS, "listen_interfaces": own})
    while not session.is_listening():
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.readline()
    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(torrent)
    wanted.save_path = str(Path(folder))
    flags = libtorrent.torrent_flags
    wanted.flags = (flags.seed_mode if seeds else 0) | (flags.super_seeding if is_super else 0)
    handle = session.add_torrent(wanted)
    for member in others:
        if not member.startswith("--"):
            address, _, port = member.rpartition(":")
            handle.connect_peer((address, int(port)))
    while not handle.status().is_seeding:
        session.wait_for_alert(50)
        session.pop_alerts()
    print("done", flush=True)
    sys.stdin.read()
    print(handle.status().total_payload_upload, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
