"""Completion scripts are made for every shell, and the one for bash completes."""

import shutil
import subprocess

import pytest

from p2psync.cli.verbs import SHELLS, VERBS


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(cli, shell):
    """Each shell's script names every verb and flag, and ends in one line end."""
    script = cli("completion", shell).out
    words = {word for name in VERBS for word in name.split()}
    assert [word for word in (*words, "in-place", "upload-limit", "offline") if word not in script] == []
    assert script.endswith("\n")
    assert not script.endswith("\n\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("p2psync pu", {"publish", "pull"}),
        ("p2psync pull --wa", {"--watch"}),
        ("p2psync key ", {"new", "ls", "export"}),
        ("p2psync completion ", {"bash", "zsh", "fish", "tcsh"}),
    ],
)
def test_bash_completes(cli, tmp_path, typed, offered):
    """In bash, TAB offers verbs, flags and choices."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "p2psync.bash"
    script.write_text(cli("completion", "bash").out)
    words = typed.split(" ")
    ask = (
        f"source {script}; COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; "
        'F=$(complete -p p2psync | sed "s/.*-F \\([^ ]*\\).*/\\1/"); $F; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "--norc", "-c", ask], capture_output=True, text=True, check=True)
    assert offered <= set(done.stdout.split())
