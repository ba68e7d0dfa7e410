import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import MalformedError
from p2psync.swarm.varint import read_varint, varint


@given(st.integers(0, (1 << 63) - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_every_number_comes_back(number, before, after):
    """A number is read where it stands, whatever is around it."""
    data = before + varint(number) + after
    assert read_varint(data, len(before)) == (number, len(data) - len(after))


@pytest.mark.parametrize("number", [-1, 1 << 63])
def test_numbers_that_do_not_fit_are_refused(number):
    """Writing never loops or truncates."""
    with pytest.raises(ValueError, match="does not fit"):
        varint(number)


@pytest.mark.parametrize("data", ["", "80", "8000", "ff00", "ffffffffffffffffff01", "8080808080808080808000"])
def test_other_spellings_are_refused(data):
    """A number has one spelling, of at most nine bytes."""
    with pytest.raises(MalformedError):
        read_varint(bytes.fromhex(data), 0)
