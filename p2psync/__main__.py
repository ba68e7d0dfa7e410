"""``python -m p2psync`` is the program ``p2psync``."""

from p2psync.cli.main import entry

if __name__ == "__main__":
    entry()
