"""Read what is installed again and say everything that is wrong with it."""

from __future__ import annotations

from p2psync.errors import ModelNotFoundError
from p2psync.manifest import Reference, peek_head
from p2psync.store.heads import resolve
from p2psync.store.index import NOBODY, InstallRow
from p2psync.store.opened import OpenHome
from p2psync.store.prove import Prover
from p2psync.store.values import Damage, DamageKind, Meter, Progress, VerifyReport


def verify(opened: OpenHome, reference: Reference | None, progress: Progress) -> VerifyReport:
    """Prove every byte of one version, or of all. See ``Store.verify``."""
    installs = opened.index.installs() if reference is None else find_installs(opened, reference)
    listed = [(install, opened.index.files(install)) for install in installs]
    total = sum(file.size for _, files in listed for file in files)
    meter = Meter(progress, total)
    damages = []
    with Prover(opened, meter.advance) as prover:
        for install, files in listed:
            if opened.manifests.read(install.root) is None:
                damages.append(Damage(install.name, install.root, "", DamageKind.MANIFEST))
            damages += [damage for file in files if (damage := prover.prove(file)) is not None]
    meter.tell()
    return VerifyReport(sum(len(files) for _, files in listed), total, tuple(damages))


def reprove_withdrawn(opened: OpenHome, progress: Progress) -> list[Damage]:
    """Prove again what changed since it was proved, and take back what still is what it was.

    A file that proved to be damaged is not read again until it changes once more.
    """
    doubtful = [
        file
        for file in opened.index.all_files()
        if (file.id in opened.withdrawn or not file.good)
        and (file.good or (opened.identity_on_disk(file) or NOBODY) != file.identity)
    ]
    total = sum(file.size for file in doubtful)
    meter = Meter(progress, total)
    with Prover(opened, meter.advance) as prover:
        return [damage for file in doubtful if (damage := prover.prove(file)) is not None]


def find_installs(opened: OpenHome, reference: Reference) -> list[InstallRow]:
    """The version that a reference names here.

    Raises:
        ModelNotFoundError: it is not here.
    """
    root = reference.digest
    if root is None:
        envelope = resolve(opened.heads, reference)
        root = peek_head(envelope).root if envelope is not None else None
    found = opened.index.installs(reference.name, root) if root is not None else []
    if not found:
        raise ModelNotFoundError(f"{reference} is not in this home", hint="p2psync ls")
    return found
