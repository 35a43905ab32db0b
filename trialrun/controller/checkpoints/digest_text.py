"""How a digest is written: its version, then its hash. ``v2-9f86…``; needs no torch.

Version 1 wrote no version: 64 hexadecimal characters alone. Two digests can be equal only when
their versions are, so what compares a new one with an old one computes it in the old version.
"""

from __future__ import annotations

import re

CURRENT_VERSION = 2
_SHORT = 12
_TEXT = re.compile(r"(?:v(?P<version>[0-9]+)-)?(?P<hash>[0-9a-f]{64})")


def written(version: int, hexadecimal: str) -> str:
    """Returns the text of a digest."""
    return hexadecimal if version == 1 else f"v{version}-{hexadecimal}"


def version_of(digest: str) -> int | None:
    """Returns the version in which a digest was computed; None where the text is no digest."""
    found = _TEXT.fullmatch(digest)
    return None if found is None else int(found["version"] or 1)


def short(digest: str) -> str:
    """Returns the beginning of a digest, for people: the version and 12 characters of the hash."""
    version, separator, hexadecimal = digest.rpartition("-")
    return version + separator + hexadecimal[:_SHORT]
