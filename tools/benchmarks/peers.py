"""The other ways to move one file, each at its best setting: nginx with curl and aria2, rsync, libtorrent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure

_TORRENT = Path(__file__).with_name("torrent.py")
_START_S = 10.0

_NGINX = """\
daemon off;
worker_processes auto;
user root;
pid {work}/nginx.pid;
error_log {work}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

_RSYNC = """\
use chroot = no
uid = {uid}
gid = {gid}
log file = {work}/rsync.log
pid file = {work}/rsync.pid
[files]
path = {root}
read only = yes
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to move ``file``: who serves it (its processes), and the command that fetches it into a folder.

    The command ends when the bytes are durable. ``proves`` says what it checks them against.
    """

    name: str
    proves: str
    servers: tuple[int, ...]
    fetch: Callable[[Path], list[str]]


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> None:
    """Wait until something listens on loopback.

    Raises:
        TimeoutError: nothing did.
    """
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def nginx(work: Path, root: Path) -> Iterator[tuple[int, int]]:
    """An nginx that serves ``root`` on loopback. Yields its port and its process."""
    work.mkdir(parents=True)
    port = free_port()
    settings = work / "nginx.conf"
    settings.write_text(_NGINX.format(work=work, root=root, port=port))
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or "nginx"
    with _server([program, "-c", str(settings)], port) as pid:
        yield port, pid


@contextmanager
def http_peers(work: Path, file: Path) -> Iterator[list[Peer]]:
    """Two clients of one nginx: curl and aria2."""
    with nginx(work, file.parent) as (port, pid):
        url = f"http://127.0.0.1:{port}/{file.name}"
        yield [
            Peer("nginx + curl", "nothing", (pid,), lambda to: _then_sync(["curl", "-sfo", str(to / "file"), url], to)),
            Peer(
                "nginx + aria2",
                "nothing",
                (pid,),
                lambda to: _then_sync(
                    [
                        *("aria2c", "--quiet", "--no-conf", "--max-connection-per-server=4", "--split=4"),
                        *("--min-split-size=1M", "--file-allocation=falloc", f"--dir={to}", "--out=file", url),
                    ],
                    to,
                ),
            ),
        ]


@contextmanager
def rsync_peer(work: Path, file: Path) -> Iterator[Peer]:
    """The client and the daemon of rsync."""
    work.mkdir(parents=True)
    port = free_port()
    settings = work / "rsyncd.conf"
    settings.write_text(_RSYNC.format(uid=os.geteuid(), gid=os.getegid(), work=work, root=file.parent))
    daemon = ["rsync", "--daemon", "--no-detach", f"--config={settings}", "--address=127.0.0.1", f"--port={port}"]
    url = f"rsync://127.0.0.1:{port}/files/{file.name}"
    with _server(daemon, port) as pid:
        yield Peer(
            "rsync",
            "its own checksum",
            (pid,),
            lambda to: _then_sync(["rsync", "--whole-file", "--inplace", url, str(to / "file")], to),
        )


@contextmanager
def torrent_peer(work: Path, file: Path) -> Iterator[Peer]:
    """One libtorrent seed, one leech, a v2 torrent."""
    work.mkdir(parents=True)
    torrent = work / "file.torrent"
    measure.run([sys.executable, str(_TORRENT), "make", str(file), str(torrent)])
    port = free_port()
    seed = [sys.executable, str(_TORRENT), "seed", str(file.parent), str(torrent), str(port)]
    with _server(seed, port) as pid:
        yield Peer(
            "libtorrent",
            "the v2 torrent",
            (pid,),
            lambda to: [sys.executable, str(_TORRENT), "leech", str(to), str(torrent), str(port)],
        )


def _then_sync(argv: list[str], to: Path) -> list[str]:
    # `sync --data` is fdatasync of the one file.
    return ["sh", "-c", '"$@" && sync --data "$0"', str(to / "file"), *argv]


@contextmanager
def _server(argv: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        listening(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
