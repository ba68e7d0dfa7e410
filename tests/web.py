"""Web servers that know nothing of p2psync, for origin trees: nginx where it is installed, else one on aiohttp."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {scratch}/nginx.pid;
error_log {scratch}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    sendfile on;
    keepalive_requests {requests};
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def nginx(root: Path, scratch: Path, *, requests: int = 1000) -> AsyncIterator[str]:
    """Serve a folder by nginx; yields its URL. ``requests``: how many a connection may ask before it is closed."""
    assert NGINX is not None
    port = free_port()
    scratch.mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""
    config = scratch / "nginx.conf"
    config.write_text(_CONFIG.format(user=user, scratch=scratch, root=root, port=port, requests=requests))
    process = subprocess.Popen(
        [NGINX, "-p", str(scratch), "-e", str(scratch / "error.log"), "-c", str(config)], stderr=sys.stderr
    )
    try:
        await _until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _until_open(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise AssertionError("the web server did not start")


@asynccontextmanager
async def static(root: Path, **options: object) -> AsyncIterator[str]:
    """Serve a folder by aiohttp's file handler; yields its URL. ``options`` go to the site (``ssl_context``)."""
    app = web.Application()
    app.router.add_static("/", root)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    await site.start()
    try:
        port = runner.addresses[0][1]
        scheme = "https" if options.get("ssl_context") else "http"
        yield f"{scheme}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
