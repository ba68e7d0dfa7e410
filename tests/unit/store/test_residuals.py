"""The codes that tell a tensor's chunks are those of its own expert, with its own scales."""

from p2psync.manifest import chunk_table
from p2psync.store.residuals import residuals
from tests.manifests import manifest_of, tensor, tensor_file


def expert(folder, name, dtype, *, scale=False):
    """One file with the matrix ``w``, and its scales."""
    size = {"BF16": 2, "I8": 1}[dtype]
    identity = f"{folder}/{name}"
    tensors = [tensor("w", 8, 16, dtype=dtype, identity=f"{identity}/w", element_bytes=size)]
    if scale:
        tensors.append(tensor("w.scale", 8, dtype="F32", identity=f"{identity}/scale", element_bytes=4))
    return tensor_file(f"{folder}/{name}.safetensors", *tensors)


def found_in(manifest):
    """By chunk of a tensor, the chunks of its codes and scales."""
    table = {chunk.digest: chunk for chunk in chunk_table(manifest)}
    return {one.chunk.digest: (one.codes.digest, one.scales.digest) for one in residuals(manifest, table)}


def digest_in(manifest, path, name):
    file = next(f for f in manifest.files if f.path == path)
    return next(digest for blob in file.blobs if blob.name == name for digest, _ in blob.chunks.walk(blob.length))


def test_two_experts_that_name_their_tensors_alike_are_kept_apart():
    """The codes of ``high`` tell ``high``, those of ``low`` tell ``low``."""
    manifest = manifest_of(
        *(expert("bf16", name, "BF16") for name in ("high", "low")),
        *(expert("int8", name, "I8", scale=True) for name in ("high", "low")),
    )
    assert found_in(manifest) == {
        digest_in(manifest, f"bf16/{name}.safetensors", "w"): (
            digest_in(manifest, f"int8/{name}.safetensors", "w"),
            digest_in(manifest, f"int8/{name}.safetensors", "w.scale"),
        )
        for name in ("high", "low")
    }


def test_codes_without_scales_tell_nothing():
    """Nor do codes in the file of the tensor itself."""
    assert found_in(manifest_of(expert("bf16", "high", "BF16"), expert("int8", "high", "I8"))) == {}
    alone = tensor_file("all.safetensors", tensor("w", 8, 16, identity="a"))
    assert found_in(manifest_of(alone)) == {}
