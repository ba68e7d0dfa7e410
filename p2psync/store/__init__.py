"""What a node has on disk."""

from p2psync.store.incoming import Incoming
from p2psync.store.linux import give_back_memory
from p2psync.store.locate import Located
from p2psync.store.store import Store, owner_pid
from p2psync.store.values import (
    Damage,
    DamageKind,
    Progress,
    Published,
    PublishOptions,
    RemovalReport,
    Removed,
    Snap,
    Unfinished,
    Usage,
    VerifyReport,
    VersionInfo,
)

__all__ = [
    "Damage",
    "DamageKind",
    "Incoming",
    "Located",
    "Progress",
    "PublishOptions",
    "Published",
    "RemovalReport",
    "Removed",
    "Snap",
    "Store",
    "Unfinished",
    "Usage",
    "VerifyReport",
    "VersionInfo",
    "give_back_memory",
    "owner_pid",
]
