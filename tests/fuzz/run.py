"""One target under the fuzzer: `python -m tests.fuzz.run TARGET CORPUS... [LIBFUZZER FLAG]...`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["p2psync"]):
    # What is imported here is watched; targets import their own readers when they first run.
    import p2psync.compress.quality
    import p2psync.compress.recipe
    import p2psync.engine.description
    import p2psync.engine.generations
    import p2psync.engine.plan
    import p2psync.engine.pointers
    import p2psync.engine.probe
    import p2psync.engine.shapes
    import p2psync.store.encoded
    import p2psync.store.index
    import p2psync.store.journal
    import p2psync.store.manifests
    import p2psync.store.settings
    import p2psync.swarm.gossip
    import p2psync.swarm.messages
    import p2psync.transport.discovery
    import p2psync.transport.frames
    import p2psync.transport.handshake
    import p2psync.transport.http_head
    import p2psync.transport.local
    import p2psync.trust.keyring
    import p2psync.trust.policy  # noqa: F401
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    target = TARGETS[sys.argv[1]]
    # To merge a corpus libFuzzer starts itself anew, by the first word.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.run {sys.argv[1]}", *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
