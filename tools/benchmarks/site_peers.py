"""The other ways to bring a file to a site: a lone aria2, curl on every node, curl and rsync, two kinds of swarm."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import measure
from benchmarks.site_case import RUN_S_MAX, Case, Run, Shop
from tests.integration.site_lab import SiteLab
from tests.integration.site_nodes import Together

_TORRENT = Path(__file__).with_name("torrent.py")
_MEMBER = Path(__file__).with_name("site_torrent.py")
_HTTP_PORT, _RSYNC_PORT, _TORRENT_PORT = 8080, 8730, 6881
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
    server {{ listen {address}:{port}; root {root}; }}
}}
"""

_RSYNC = """\
use chroot = no
reverse lookup = no
log file = {work}/rsync.log
pid file = {work}/rsync.pid
[files]
path = {root}
read only = yes
"""


def lone_aria2(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """One node fetches the file with 16 connections, and nobody else does anything."""
    with shop.folder("aria2") as folder, _nginx(lab, folder, shop.file.parent) as root:
        command = [
            *("aria2c", "--quiet", "--no-conf", "--max-connection-per-server=16", "--split=16", "--min-split-size=1M"),
            *("--file-allocation=none", f"--dir={folder}", "--out=file", f"{root}/{shop.file.name}"),
        ]
        with Together({"n1": lab.argv("n1", command)}, RUN_S_MAX) as together:
            ends = together.seconds(["n1"])
        shop.check(folder / "file")
    return {"seconds": ends["n1"], "outside_bytes": shop.bytes}


def curl_everywhere(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """Every node fetches the file by itself."""
    with shop.folder("curl") as folder, _nginx(lab, folder, shop.file.parent) as root:
        url = f"{root}/{shop.file.name}"
        commands = {name: lab.argv(name, ["curl", "-sfo", folder / name, url]) for name in lab.names}
        with Together(commands, RUN_S_MAX) as together:
            ends = together.seconds(lab.names)
        for name in lab.names:
            shop.check(folder / name)
    return {"seconds": max(ends.values()), "outside_bytes": shop.bytes * len(ends), "ends_s": ends}


def curl_then_rsync(lab: SiteLab, _case: Case, shop: Shop) -> Run:
    """One node fetches the file, and then the others copy it from there."""
    first, *others = lab.names
    began_s = time.monotonic()
    with shop.folder("rsync") as folder, _nginx(lab, folder, shop.file.parent) as root:
        (folder / "files").mkdir()
        copy = folder / "files" / "file"
        fetch = lab.argv(first, ["curl", "-sfo", copy, f"{root}/{shop.file.name}"])
        with Together({first: fetch}, RUN_S_MAX) as together:
            ends = together.seconds([first])
        url = f"rsync://{lab.address(first)}:{_RSYNC_PORT}/files/file"
        commands = {name: lab.argv(name, ["rsync", "--whole-file", "--inplace", url, folder / name]) for name in others}
        with _rsync(lab, first, folder), Together(commands, RUN_S_MAX) as together:
            before_s = together.began_s - began_s
            ends |= {name: round(before_s + seconds, 3) for name, seconds in together.seconds(others).items()}
        for name in others:
            shop.check(folder / name)
    return {"seconds": max(ends.values()), "outside_bytes": shop.bytes, "ends_s": ends}


def swarm(lab: SiteLab, case: Case, shop: Shop) -> Run:
    """A libtorrent swarm in which everybody knows everybody from the beginning."""
    return _swarm(lab, case, shop)


def super_seeding(lab: SiteLab, case: Case, shop: Shop) -> Run:
    """The same, with a seed that tries to send every piece once."""
    return _swarm(lab, case, shop, "--super")


def _swarm(lab: SiteLab, _case: Case, shop: Shop, *flags: str) -> Run:
    with shop.folder("torrent") as folder, ExitStack() as stack:
        torrent = folder / "file.torrent"
        measure.run([sys.executable, str(_TORRENT), "make", str(shop.file), str(torrent)])
        places = {name: f"{lab.address(name)}:{_TORRENT_PORT}" for name in ("seed", *lab.names)}
        members = {}
        for name, place in places.items():
            own = folder / name
            own.mkdir()
            seeds = name == "seed"
            others = [*flags, "--seed"] if seeds else [other for key, other in places.items() if key != name]
            command = [sys.executable, _MEMBER, shop.file.parent if seeds else own, torrent, place, *others]
            members[name] = stack.enter_context(_member(lab, name, command))
        for member in members.values():
            _expect(member, "ready")
        _say(members["seed"])
        _expect(members["seed"], "done")
        began_s = time.monotonic()
        for name in lab.names:
            _say(members[name])
        ends = _ends({name: members[name] for name in lab.names}, began_s)
        sent = {name: _last_word(member) for name, member in members.items()}
        for name in lab.names:
            shop.check(folder / name / shop.file.name)
    return {"seconds": max(ends.values()), "outside_bytes": sent["seed"], "ends_s": ends, "sent_bytes": sent}


@contextmanager
def _member(lab: SiteLab, name: str, command: Sequence[object]) -> Iterator[subprocess.Popen[str]]:
    member = lab.popen(name, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield member
    finally:
        member.kill()
        member.communicate()


def _say(member: subprocess.Popen[str]) -> None:
    if member.stdin is not None:
        member.stdin.write("join\n")
        member.stdin.flush()


def _expect(member: subprocess.Popen[str], word: str) -> None:
    line = member.stdout.readline() if member.stdout is not None else ""
    if line.strip() != word:
        raise RuntimeError(f"a member of the swarm said {line!r}, not {word!r}")


def _ends(members: dict[str, subprocess.Popen[str]], began_s: float) -> dict[str, float]:
    """Seconds until each member said that it is done."""
    import select

    poll = select.poll()
    waiting = {}
    for name, member in members.items():
        if member.stdout is not None:
            waiting[member.stdout.fileno()] = name
            poll.register(member.stdout, select.POLLIN | select.POLLHUP)
    ends = {}
    while waiting:
        ready = poll.poll(RUN_S_MAX * 1000)
        if not ready:
            raise RuntimeError(f"the swarm did not end within {RUN_S_MAX:.0f} s")
        for descriptor, _ in ready:
            name = waiting.pop(descriptor)
            poll.unregister(descriptor)
            _expect(members[name], "done")
            ends[name] = round(time.monotonic() - began_s, 3)
    return ends


def _last_word(member: subprocess.Popen[str]) -> int:
    """End a member; the payload bytes that it sent."""
    output, _ = member.communicate(timeout=_START_S)
    return int(output)


@contextmanager
def _nginx(lab: SiteLab, work: Path, root: Path) -> Iterator[str]:
    """An nginx at the seed. Yields the URL of its root."""
    settings = work / "nginx.conf"
    address = lab.address("seed")
    settings.write_text(_NGINX.format(work=work, root=root, address=address, port=_HTTP_PORT))
    with _server(lab, "seed", ["/usr/sbin/nginx", "-c", settings], f"{address}:{_HTTP_PORT}"):
        yield f"http://{address}:{_HTTP_PORT}"


@contextmanager
def _rsync(lab: SiteLab, name: str, folder: Path) -> Iterator[None]:
    """A daemon on a node that hands out ``folder``/files."""
    settings = folder / "rsyncd.conf"
    settings.write_text(_RSYNC.format(work=folder, root=folder / "files"))
    place = lab.address(name)
    command = [
        "rsync",
        "--daemon",
        "--no-detach",
        f"--config={settings}",
        f"--address={place}",
        f"--port={_RSYNC_PORT}",
    ]
    with _server(lab, name, command, f"{place}:{_RSYNC_PORT}"):
        yield


@contextmanager
def _server(lab: SiteLab, name: str, command: Sequence[object], place: str) -> Iterator[None]:
    """Run a server on a machine of the lab, from the moment that it listens on ``place``."""
    process = lab.popen(name, command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + _START_S
        while place not in lab.run(name, ["ss", "-Hltn"]).stdout:
            if time.monotonic() > until_s:
                raise TimeoutError(f"nothing listens on {place}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()
