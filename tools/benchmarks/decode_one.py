"""Decode one chunk in a process of its own and say by how much memory grew at the most.

usage: decode_one.py ENCODED RAW [BASE]...

RAW is what must come out. Prints bytes: the highest resident set while decoding, less what was resident before.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path


def main(encoded: Path, raw: Path, *bases: Path) -> int:
    """Returns the exit code: 1 if other bytes came out."""
    from p2psync import codec

    given, due, old = encoded.read_bytes(), raw.read_bytes(), [base.read_bytes() for base in bases]
    # The first one brings the libraries in. What it leaves on the heap goes back, or the second would take none.
    codec.decode(given, old, len(due))
    ctypes.CDLL(None).malloc_trim(0)
    # Writing 5 there sets the peak back to what is resident now (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    made = codec.decode(given, old, len(due))
    peak = _resident("VmHWM")
    print(peak - before)
    return 0 if made == due else 1


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
