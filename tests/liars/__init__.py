"""A library of liars: one class for each behaviour of whoever is asked, asks, is a neighbour or is overheard.

``answers`` is the truth that liars wrap, ``server`` the HTTP server that speaks it, ``stage`` a published model with an
honest seed, ``puller`` a process that pulls and tells what it left behind. The numbers are those by which the tests in
tests/adversarial are found.

HTTP sources (``bodies``, ``framing``, ``silence``), each around honest answers:

- C 30 wrong bytes of the right length: FlippedBit
- C 31 short bodies: ShortBody, LengthTooShort
- C 32 long or endless bodies: EndlessBody, EndlessTail, LengthTooLong, LengthGiant, GiantHead, GiantLine, Interim
- C 33 a right chunk for another request: AnotherChunk, OtherRange, OtherHead
- C 34 says that it has, answers 404: NotFound
- C 35 a byte now and then: Dribble, DribbledHead
- C 36 takes a request and is silent: Silent, Mute, SilentAfterHead, SilentInBody
- C 37 reset at 99 %: ResetNearEnd; HangsUp instead of an answer; PoliteCloser between two, which is no lie
- C 38 bombs: Bomb; signed forms that lie are made in test_signed_forms.py
- C 43 a giant have-map: GiantInventory
- C 45 redirects: Redirect
- and HTTP that is none: TwoLengths, Chunked, ChunkedWithLength, Garbage, OldHttp, NoContent, OtherStatus, ServerError;
  batches that are none: PutsOff, BrokenFrames

Askers of a server (``askers``): C 39 BadRanges; C 40 Prober; C 41 Crowd, HoldsOn; C 42 SlowPoster.

Neighbours on a site channel (``channels``): C 43 GiantHaveMap, GiantBitset, EndlessRuns, Greeter; C 44 Misleader.

Simulated nodes (``strangers``): C 30 and C 33 WrongBytes; C 34 Empty; C 35 Trickling; C 36 Unspeaking; C 37 Breaking;
C 46 all of them at once.

Announcements (``announcements``): F 66 Announcers, GiantTexts, TextOf64Kib, Churn.
"""

from __future__ import annotations

from tests.liars.announcements import Announcers, Churn, GiantTexts, TextOf64Kib
from tests.liars.answers import Answer, Answers, PeerAnswers, Request, SeedAnswers, TreeAnswers, in_part
from tests.liars.askers import Asker, BadRanges, Crowd, HoldsOn, Prober, SlowPoster, get, statuses, until_end
from tests.liars.bodies import (
    AnotherChunk,
    Bomb,
    BrokenFrames,
    EndlessBody,
    EndlessTail,
    FlippedBit,
    GiantInventory,
    LengthGiant,
    LengthTooLong,
    LengthTooShort,
    NoContent,
    OtherHead,
    OtherRange,
    OtherStatus,
    PutsOff,
    ResetNearEnd,
    ShortBody,
)
from tests.liars.channels import EndlessRuns, GiantBitset, GiantHaveMap, Gossiper, Greeter, Misleader
from tests.liars.framing import (
    Chunked,
    ChunkedWithLength,
    Garbage,
    GiantHead,
    GiantLine,
    HangsUp,
    Interim,
    NotFound,
    OldHttp,
    PoliteCloser,
    Redirect,
    ServerError,
    TwoLengths,
)
from tests.liars.server import Liar, flood, for_ever, read_request
from tests.liars.silence import Dribble, DribbledHead, Mute, Silent, SilentAfterHead, SilentInBody
from tests.liars.strangers import Boaster, Breaking, Empty, Trickling, Unspeaking, WrongBytes

__all__ = [
    "Announcers",
    "AnotherChunk",
    "Answer",
    "Answers",
    "Asker",
    "BadRanges",
    "Boaster",
    "Bomb",
    "Breaking",
    "BrokenFrames",
    "Chunked",
    "ChunkedWithLength",
    "Churn",
    "Crowd",
    "Dribble",
    "DribbledHead",
    "Empty",
    "EndlessBody",
    "EndlessRuns",
    "EndlessTail",
    "FlippedBit",
    "Garbage",
    "GiantBitset",
    "GiantHaveMap",
    "GiantHead",
    "GiantInventory",
    "GiantLine",
    "GiantTexts",
    "Gossiper",
    "Greeter",
    "HangsUp",
    "HoldsOn",
    "Interim",
    "LengthGiant",
    "LengthTooLong",
    "LengthTooShort",
    "Liar",
    "Misleader",
    "Mute",
    "NoContent",
    "NotFound",
    "OldHttp",
    "OtherHead",
    "OtherRange",
    "OtherStatus",
    "PeerAnswers",
    "PoliteCloser",
    "Prober",
    "PutsOff",
    "Redirect",
    "Request",
    "ResetNearEnd",
    "SeedAnswers",
    "ServerError",
    "ShortBody",
    "Silent",
    "SilentAfterHead",
    "SilentInBody",
    "SlowPoster",
    "TextOf64Kib",
    "TreeAnswers",
    "Trickling",
    "TwoLengths",
    "Unspeaking",
    "WrongBytes",
    "flood",
    "for_ever",
    "get",
    "in_part",
    "read_request",
    "statuses",
    "until_end",
]
