"""Values of nodes with one place in them spoilt, as hypothesis chooses it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, -1, 1 << 20, 1 << 46, (1 << 46) + 1, 1 << 63, True, None, [], {}, b"", bytes(32)]),
    st.sampled_from(
        ["a", "a/b", "con .txt", "nul.x", "é", "e\u0301", "x:", "a.", "../a", "w\\", "ﬀ", "model.safetensors"]
    ),
)


def spoil(data: st.DataObject, value: Any) -> Any:
    """A value with one place in it taken away, doubled, or replaced by something else."""
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        kept = [value[at]] if data.draw(st.booleans()) else []
        return [*value[:at], spoil(data, value[at]), *kept, *value[at + 1 :]]
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from([*value, 5, 8, 16, 1 << 32]))
        return value | {key: spoil(data, value[key]) if key in value else data.draw(VALUES)}
    if isinstance(value, bytes) and value and data.draw(st.booleans()):
        return data.draw(st.sampled_from([value[:-1], value + value[-32:], value[4:]]))
    return value if value is ... else data.draw(VALUES)
