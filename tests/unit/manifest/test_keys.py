import pytest

from p2psync.errors import BadSignatureError, UsageError
from p2psync.manifest import SigningKey, VerifyKey

# RFC 8032, section 7.1, test 2.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = "ed25519:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
ORDER = (1 << 252) + 27742317777372353535851937790883648493


def test_keys_are_those_of_the_standard():
    """Public key and signature are those of RFC 8032."""
    key = SigningKey.from_bytes(SECRET)
    assert str(key.verify_key) == PUBLIC
    assert key.sign(b"\x72") == SIGNATURE
    key.verify_key.verify(b"\x72", SIGNATURE)


def test_keys_as_values():
    """Keys print, parse, compare and hash by their bytes; a secret key prints only its public half."""
    key = VerifyKey.parse(PUBLIC)
    assert key == VerifyKey(bytes(key)) == SigningKey.generate(SECRET).verify_key
    assert len({key, VerifyKey.parse(PUBLIC)}) == 1
    assert key != SigningKey.generate(bytes(32)).verify_key
    assert key.key_id == "3d4017c3e843895a"
    assert SECRET.hex() not in repr(SigningKey.from_bytes(SECRET))
    assert bytes(SigningKey.from_bytes(SECRET)) == SECRET


def test_every_changed_bit_is_noticed():
    """A signature with any bit changed, of another message or by another key does not verify."""
    key = VerifyKey.parse(PUBLIC)
    for bit in range(512):
        spoilt = bytearray(SIGNATURE)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignatureError):
            key.verify(b"\x72", bytes(spoilt))
    with pytest.raises(BadSignatureError):
        key.verify(b"\x73", SIGNATURE)
    with pytest.raises(BadSignatureError):
        SigningKey.generate(bytes(32)).verify_key.verify(b"\x72", SIGNATURE)


@pytest.mark.parametrize(
    ("message", "signature"),
    [
        (b"\x72", b""),
        (b"\x72", SIGNATURE[:63]),
        (b"", SIGNATURE + b"\x72"),
        (b"\x72", SIGNATURE[:32] + (int.from_bytes(SIGNATURE[32:], "little") + ORDER).to_bytes(32, "little")),
    ],
    ids=["empty", "short", "with its message", "malleable"],
)
def test_other_forms_of_a_signature_are_refused(message, signature):
    """Only 64 bytes in their one form are a signature."""
    with pytest.raises(BadSignatureError):
        VerifyKey.parse(PUBLIC).verify(message, signature)


@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_keys_that_prove_nothing_verify_nothing(raw):
    """Points of small order, for which anybody can sign, and what is no point, verify nothing."""
    with pytest.raises(BadSignatureError):
        VerifyKey(raw).verify(b"x", b"\x01" + bytes(63))


@pytest.mark.parametrize(
    "text", ["", PUBLIC[:-1], PUBLIC + "0", PUBLIC.upper(), PUBLIC[8:], "rsa:" + PUBLIC[8:], PUBLIC + "\n"]
)
def test_other_texts_are_no_keys(text):
    """Only ``ed25519:`` and 64 lower-case hex digits are a key."""
    with pytest.raises(UsageError):
        VerifyKey.parse(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_sizes_are_no_keys(size):
    """A key has 32 bytes."""
    with pytest.raises(UsageError):
        VerifyKey(bytes(size))
    with pytest.raises(UsageError):
        SigningKey.generate(bytes(size))
