"""The README's tables of codecs say what was measured, of which part, and which bound was missed."""

from __future__ import annotations

import codec_tables

OURS = {"percent": 66.49, "encode_mbs": 640.2, "decode_mbs": 1210.0}
SLOW = {"percent": 77.0, "encode_mbs": 2.04, "decode_mbs": 300.0, "ours_there": 66.21}
CUTTING = {"percent": 0.5, "encode_mbs": 900.0, "decode_mbs": 0.0}


def row(what: str, bound: str, *, met: bool) -> dict:
    return {"what": what, "beside": "another", "ours": "66.49 %", "bound": bound, "met": met}


def test_a_peer_on_a_part_stands_beside_ours_on_that_part():
    """A column per sample; who did not run there has an empty cell."""
    benchmark = {
        "groups": {
            "bf16": {
                "summary": {"sample": "MiniLM, BF16", "codecs": {"p2psync": OURS, "zstd -19": SLOW}},
                "table": [row("size", "<= 66.7 %", met=True), row("threads", "", met=True)],
            },
            "int8": {
                "summary": {"sample": "MiniLM, I8", "codecs": {"p2psync": OURS}},
                "table": [row("speed", ">= 1 GB/s", met=False)],
            },
        }
    }
    lines = codec_tables.full_forms(benchmark).splitlines()
    assert lines[:4] == [
        "| | MiniLM, BF16 | MiniLM, I8 |",
        "|---|---|---|",
        "| **p2psync** | 66.5 %, 640 / 1210 | 66.5 %, 640 / 1210 |",
        "| zstd -19 | 77.0 % (66.2), 2.0 / 300 |  |",
    ]
    assert lines[-2:] == ["| size | **66.49 %** | <= 66.7 % | met |", "| speed | **66.49 %** | >= 1 GB/s | missed |"]


def test_types_of_less_interest_show_their_smallest_peer():
    """And a group without samples gives its bounds alone."""
    sample = {"sample": "tuned, F16", "codecs": {"p2psync": OURS, "zstd -19": SLOW, "cutting": CUTTING}}
    strangers = {"summary": {}, "table": [row("strangers", "never above", met=True)]}
    benchmark = {"groups": {"f16": {"summary": {"samples": [sample]}, "table": []}, "strangers": strangers}}
    lines = codec_tables.deltas(benchmark).splitlines()
    assert "| tuned, F16 | 66.5 %, 640 / 1210 | cutting: 0.500 %, 900 |" in lines
    assert lines[-1] == "| strangers | **66.49 %** | never above | met |"
