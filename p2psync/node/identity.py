"""Who this node is: an Ed25519 key of its own, and the id that follows from it."""

from __future__ import annotations

from pathlib import Path

from p2psync.errors import NotFoundError
from p2psync.manifest import SigningKey
from p2psync.transport import node_id_of
from p2psync.trust import Keyring

# Apart from ``keys/``: those sign models, this one only says which machine speaks.
_FOLDER = "node"
_NAME = "node"


def node_key(home: Path) -> SigningKey:
    """The key by which the node that owns ``home`` proves who it is. Made on first use; it stays with the home."""
    keyring = Keyring(home / _FOLDER)
    try:
        return keyring.signing_key(_NAME)
    except NotFoundError:
        keyring.new(_NAME)
        return keyring.signing_key(_NAME)


def node_id(home: Path) -> str:
    """The id of the node that owns ``home``: the digest of its public key, 64 hex digits.

    The key is made on first use and stays with the home; a copied home is the same node.
    """
    return node_id_of(node_key(home).verify_key)


def known_node_id(home: Path) -> str | None:
    """The id of the node that owns ``home``, None while it has none."""
    try:
        return node_id_of(Keyring(home / _FOLDER).verify_key(_NAME))
    except NotFoundError:
        return None
