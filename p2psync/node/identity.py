"""Who this node is: an Ed25519 key of its own, and the id that follows from it."""

from __future__ import annotations

from pathlib import Path

from p2psync.content import Digest
from p2psync.errors import NotFoundError
from p2psync.manifest import VerifyKey
from p2psync.trust import Keyring

# Apart from ``keys/``: those sign models, this one only says which machine speaks.
_FOLDER = "node"
_NAME = "node"


def node_id(home: Path) -> str:
    """The id of the node that owns ``home``: the digest of its public key, 64 hex digits.

    The key is made on first use and stays with the home; a copied home is the same node.
    """
    known = known_node_id(home)
    return known if known is not None else _id_of(Keyring(home / _FOLDER).new(_NAME))


def known_node_id(home: Path) -> str | None:
    """The id of the node that owns ``home``, None while it has none."""
    try:
        return _id_of(Keyring(home / _FOLDER).verify_key(_NAME))
    except NotFoundError:
        return None


def _id_of(key: VerifyKey) -> str:
    return Digest.of(bytes.fromhex(str(key).removeprefix("ed25519:"))).hex()
