"""A recipe says everything that a build needs, and nothing that is misspelt."""

import pytest

from p2psync.compress import parse_recipe, read_recipe
from p2psync.errors import InvalidConfigError, ModelNotFoundError
from p2psync.limits import RECIPE_BYTES_MAX, RECIPE_PROMPTS_MAX

SMALL = b'name = "tiny"\n[variants.fp16]\n'
FULL = b"""
name = "tiny"
[sampling]
steps = 4
guidance = 1
[video]
height = 96
width = 64
frames = 17
[calibration]
prompts = ["a red circle"]
prompts_file = "prompts.txt"
percentile = 99.9
[quality]
prompts = ["a blue square"]
accuracy = 0.9
[variants.fp16]
default = true
[variants.int8]
precision = "int8"
keep = ["*.attn2.*"]
[variants.int8-pruned]
precision = "int8"
prune = { ffn = 0.5, heads = 0.25 }
"""


def test_defaults(tmp_path):
    """Two lines are a recipe."""
    recipe = parse_recipe(SMALL, directory=str(tmp_path))
    assert (recipe.name, recipe.sampling.steps, recipe.video.frames) == ("tiny", 8, 9)
    assert [v.name for v in recipe.variants] == ["fp16"]
    assert recipe.variants[0].precision == "fp16"
    assert recipe.quality.ssim == 0.85


def test_everything(tmp_path):
    """Every table is read; prompts of a file follow those of the recipe, without empty lines."""
    (tmp_path / "prompts.txt").write_text("دائرة حمراء\n\n红色圆形\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_bytes(FULL)
    recipe = read_recipe(str(tmp_path / "recipe.toml"))
    assert recipe.calibration.prompts == ("a red circle", "دائرة حمراء", "红色圆形")
    assert recipe.sampling.guidance == 1.0
    assert [v.default for v in recipe.variants] == [True, False, False]
    assert recipe.variants[2].prune is not None
    assert recipe.variants[2].prune.ffn == 0.5
    assert recipe.variants[1].prune is None


def test_the_digest_names_the_bytes(tmp_path):
    """Equal recipes have equal digests, any other byte another."""
    first, second = (parse_recipe(SMALL + tail, directory=str(tmp_path)).digest for tail in (b"", b"\n"))
    assert first == parse_recipe(SMALL, directory=str(tmp_path)).digest
    assert first != second


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"name = ", "Invalid value"),
        (b"\xff", "utf-8"),
        (b'name = "a b"\n[variants.fp16]', "name"),
        (b'name = "a"', "variants"),
        (SMALL + b"[variants.fp16.x]\n", "variants.fp16.x"),
        (SMALL + b"presicion = 1\n", "variants.fp16.presicion"),
        (SMALL + b"[sampling]\nsteps = true\n", "sampling.steps"),
        (SMALL + b"[sampling]\nguidance = nan\n", "sampling.guidance"),
        (SMALL + b"[sampling]\nsteps = -1\n", "sampling.steps"),
        (SMALL + b"[video]\nframes = 8\n", "4 k"),
        (SMALL + b"[video]\nwidth = 40\n", "multiples of 16"),
        (SMALL + b"[video]\nwidth = 0\n", "multiples of 16"),
        (SMALL + b"[variants.int8]\nprecision = 'int8'\n", "calibration.prompts"),
        (SMALL + b"[variants.x]\nprecision = 'int5'\n", "precision"),
        (SMALL + b"[variants.x]\nprune = { ffn = 1.0 }\n", "prune"),
        (SMALL + b"[quality]\nprompts = ['a']\nreference = 'bf16'\n", "reference"),
        (SMALL + b"default = true\n[variants.y]\ndefault = true\n", "default"),
        (SMALL + b"[calibration]\nprompts = [1]\n", "list of texts"),
    ],
)
def test_what_is_wrong_is_named(text, named, tmp_path):
    """Each fault of a recipe is one error that says where it is."""
    with pytest.raises(InvalidConfigError, match=named):
        parse_recipe(text, directory=str(tmp_path))


def test_a_near_key_is_named(tmp_path):
    """An unknown key comes with the nearest known one."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_recipe(SMALL + b"presicion = 'fp16'\n", directory=str(tmp_path))
    assert caught.value.hint == "did you mean precision?"


def test_files_are_bounded(tmp_path):
    """A recipe that is not there and one that is too long are refused before they are parsed."""
    with pytest.raises(ModelNotFoundError):
        read_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "long.toml").write_bytes(b"#" * (RECIPE_BYTES_MAX + 1))
    with pytest.raises(InvalidConfigError, match="longer"):
        read_recipe(str(tmp_path / "long.toml"))


def test_the_number_of_prompts_is_bounded(tmp_path):
    """As many as the cap are read, from the recipe and its file together; one more is refused."""
    recipe = SMALL + b'[quality]\nprompts = ["one more"]\nprompts_file = "prompts.txt"\n'
    (tmp_path / "prompts.txt").write_text("a\n" * (RECIPE_PROMPTS_MAX - 1))
    assert len(parse_recipe(recipe, directory=str(tmp_path)).quality.prompts) == RECIPE_PROMPTS_MAX
    (tmp_path / "prompts.txt").write_text("a\n" * RECIPE_PROMPTS_MAX)
    with pytest.raises(InvalidConfigError, match=f"{RECIPE_PROMPTS_MAX + 1} prompts; at most {RECIPE_PROMPTS_MAX}"):
        parse_recipe(recipe, directory=str(tmp_path))
