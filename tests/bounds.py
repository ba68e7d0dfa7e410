"""Bounds that a class has by default, made small: waiting for the real ones would take half a minute each."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest

from p2psync import limits


def bounded(patch: pytest.MonkeyPatch, name: str, **bounds: float) -> ModuleType:
    """A module of its own that was read while these limits held. Defaults are worked out when a module is read."""
    for bound, value in bounds.items():
        patch.setattr(limits, bound, value)
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
