"""Say a scene in English, Chinese, Spanish, Arabic or German, in words that vary from caption to caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wan_tiny.world import Scenes

# How often a caption of one object says its size and its speed; two objects have but one of each, which goes unsaid.
SIZE_SAID_SHARE, SPEED_SAID_SHARE = 0.5, 0.6


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, its part on the first object, and whether it says more than colour, shape and direction."""

    text: str
    first: str
    says_size: bool
    says_speed: bool


@dataclass(frozen=True, slots=True)
class _Words:
    """The words for one object, chosen: ``size`` and ``speed`` are empty where they go unsaid."""

    colour: str
    shape: str
    direction: str
    size: str
    speed: str
    gender: int  # index into forms of an adjective


@dataclass(frozen=True, slots=True)
class Language:
    """The vocabulary of a language, in the order of the world's tables, and how it builds a phrase."""

    colours: tuple[tuple[str, ...], ...]  # one form, or one for each gender
    shapes: tuple[tuple[str, int], ...]  # with gender
    sizes: tuple[tuple[str, ...], ...]
    speeds: tuple[tuple[str, ...], ...]  # alternatives for slow, for fast
    directions: tuple[tuple[str, ...], ...]  # alternatives for each
    joint: str
    phrase: Callable[[_Words, float], str]


def _forms(*words: str) -> tuple[tuple[str, ...], ...]:
    """Split "masculine/feminine" and "one/another" into their parts."""
    return tuple(tuple(word.split("/")) for word in words)


def _english(w: _Words, chance: float) -> str:
    thing = " ".join(filter(None, (w.size, w.colour, w.shape)))
    article = "the" if chance > 0.8 else "an" if thing[0] in "aeio" else "a"
    if w.speed and chance < 0.3:
        return f"{article} {thing} {w.speed} moves {w.direction}"
    verb = "moves" if chance < 0.6 else "is moving"
    return " ".join(filter(None, (article, thing, verb, w.direction, w.speed)))


def _chinese(w: _Words, chance: float) -> str:
    size = f"{w.size}的" if w.size and chance < 0.3 else w.size
    article = "一个" if chance < 0.7 else ""
    verb = "正在" if chance > 0.8 else ""
    return f"{article}{size}{w.colour}{w.shape}{verb}{w.speed}向{w.direction}移动"


def _spanish(w: _Words, chance: float) -> str:
    thing = " ".join(filter(None, (("un", "una")[w.gender], w.shape, w.colour, w.size)))
    order = (w.direction, w.speed) if chance < 0.6 else (w.speed, w.direction)
    return " ".join(filter(None, (thing, "se mueve", *order)))


def _arabic(w: _Words, chance: float) -> str:
    thing = " ".join(filter(None, (w.shape, w.colour, w.size)))
    order = (w.direction, w.speed) if chance < 0.6 else (w.speed, w.direction)
    return " ".join(filter(None, (thing, ("يتحرك", "تتحرك")[w.gender], *order)))


def _german(w: _Words, chance: float) -> str:
    ending = ("er", "es")[w.gender]
    thing = " ".join(filter(None, ("ein", w.size and w.size + ending, w.colour + ending, w.shape)))
    if w.speed and chance > 0.6:
        return f"{thing} bewegt sich {w.direction}, {w.speed}"
    return " ".join(filter(None, (thing, "bewegt sich", w.speed, w.direction)))


LANGUAGES = {
    "en": Language(
        _forms("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white", "pink"),
        (("circle", 0), ("square", 0), ("triangle", 0), ("star", 0), ("cross", 0)),
        _forms("small", "large"),
        _forms("slowly", "quickly/fast"),
        _forms(
            *("left/to the left", "right/to the right", "up/upwards", "down/downwards"),
            *("up and left", "up and right", "down and left", "down and right"),
        ),
        " and ",
        _english,
    ),
    "zh": Language(
        _forms("红色", "绿色", "蓝色", "黄色", "紫色", "橙色", "青色", "白色", "粉色"),
        (("圆形", 0), ("正方形", 0), ("三角形", 0), ("星形", 0), ("十字形", 0)),
        _forms("小", "大"),
        _forms("缓慢地/慢慢地", "快速地/飞快地"),
        _forms("左", "右", "上", "下", "左上方", "右上方", "左下方", "右下方"),
        "，",  # noqa: RUF001 - the comma of the language
        _chinese,
    ),
    "es": Language(
        _forms(
            "rojo/roja",
            "verde",
            "azul",
            "amarillo/amarilla",
            "morado/morada",
            "naranja",
            "cian",
            "blanco/blanca",
            "rosa",
        ),
        (("círculo", 0), ("cuadrado", 0), ("triángulo", 0), ("estrella", 1), ("cruz", 1)),
        _forms("pequeño/pequeña", "grande"),
        _forms("lentamente/despacio", "rápidamente/deprisa"),
        _forms(
            *("hacia la izquierda", "hacia la derecha", "hacia arriba", "hacia abajo"),
            *("hacia arriba a la izquierda", "hacia arriba a la derecha"),
            *("hacia abajo a la izquierda", "hacia abajo a la derecha"),
        ),
        " y ",
        _spanish,
    ),
    "ar": Language(
        _forms(
            *("أحمر/حمراء", "أخضر/خضراء", "أزرق/زرقاء", "أصفر/صفراء", "بنفسجي/بنفسجية"),
            *("برتقالي/برتقالية", "سماوي/سماوية", "أبيض/بيضاء", "وردي/وردية"),
        ),
        (("دائرة", 1), ("مربع", 0), ("مثلث", 0), ("نجمة", 1), ("صليب", 0)),
        _forms("صغير/صغيرة", "كبير/كبيرة"),
        _forms("ببطء", "بسرعة"),
        _forms(
            *("إلى اليسار/نحو اليسار", "إلى اليمين/نحو اليمين", "إلى الأعلى/نحو الأعلى", "إلى الأسفل/نحو الأسفل"),
            *("إلى أعلى اليسار", "إلى أعلى اليمين", "إلى أسفل اليسار", "إلى أسفل اليمين"),
        ),
        " و ",
        _arabic,
    ),
    "de": Language(
        _forms("rot", "grün", "blau", "gelb", "violett", "orangefarben", "cyanfarben", "weiß", "rosafarben"),
        (("Kreis", 0), ("Quadrat", 1), ("Dreieck", 1), ("Stern", 0), ("Kreuz", 1)),
        _forms("klein", "groß"),
        _forms("langsam", "schnell"),
        _forms(
            *("nach links", "nach rechts", "nach oben", "nach unten"),
            *("nach oben links", "nach oben rechts", "nach unten links", "nach unten rechts"),
        ),
        " und ",
        _german,
    ),
}


def caption(scenes: Scenes, index: int, language: str, rng: np.random.Generator) -> Caption:
    """Say scene ``index`` in ``language``, a key of ``LANGUAGES``. Two objects are named from left to right."""
    spoken = LANGUAGES[language]
    count = int(scenes.count[index])
    draws = rng.random(2 + 3 * count)
    says_size, says_speed = (
        bool(count == 1 and d < s) for d, s in zip(draws, (SIZE_SAID_SHARE, SPEED_SAID_SHARE), strict=False)
    )
    phrases = []
    for k in range(count):
        chance = draws[2 + 3 * k :]
        shape, gender = spoken.shapes[int(scenes.shape[index, k])]
        size = spoken.sizes[int(scenes.large[index, k])]
        words = _Words(
            colour=_form(spoken.colours[int(scenes.colour[index, k])], gender),
            shape=shape,
            direction=_any(spoken.directions[int(scenes.direction[index, k])], chance[1]),
            size=_form(size, gender) if says_size else "",
            speed=_any(spoken.speeds[int(scenes.fast[index, k])], chance[2]) if says_speed else "",
            gender=gender,
        )
        phrases.append(spoken.phrase(words, float(chance[0])))
    return Caption(spoken.joint.join(phrases), phrases[0], says_size, says_speed)


def _form(forms: tuple[str, ...], gender: int) -> str:
    return forms[min(gender, len(forms) - 1)]


def _any(alternatives: tuple[str, ...], chance: float) -> str:
    return alternatives[int(chance * len(alternatives))]
