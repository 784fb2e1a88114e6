"""Which samples a run sees, kept so that a run that is resumed can name what has changed."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from paddleseg_segformer.data.datasets import SamplePaths
from paddleseg_segformer.data.sample_lists import SampleList

MAX_NAMES = 200_000  # kept; of more, the number and a checksum alone
MAX_NAMED = 3  # in a message


class SampleRecord(NamedTuple):
    """The samples of a data set.

    Args:
        fingerprint: Their number and a checksum.
        names: Of the images, packed; "" where they are too many.
    """

    fingerprint: str
    names: str

    @classmethod
    def of(cls, samples: SamplePaths) -> SampleRecord:
        """Return the record of a data set's samples."""
        if len(samples) > MAX_NAMES:
            return cls(fingerprint(samples), "")
        images: Iterable[str] = (samples[index][0] for index in range(len(samples)))
        root = f"{samples.root}{os.sep}" if isinstance(samples, SampleList) else ""
        return cls(fingerprint(samples), pack(image.removeprefix(root) for image in images))


def fingerprint(samples: SamplePaths) -> str:
    """Return the number of samples and a checksum of their paths."""
    if isinstance(samples, SampleList):
        return samples.fingerprint()
    digest = hashlib.blake2b(digest_size=4)
    for index in range(len(samples)):
        digest.update(repr(samples[index]).encode())
    return f"{len(samples)} samples, {digest.hexdigest()}"


def pack(names: Iterable[str]) -> str:
    """Return names as one short text."""
    packed = zlib.compress("\n".join(names).encode("utf-8", "surrogateescape"))
    return base64.b85encode(packed).decode()


def changes(then: str, now: str) -> str:
    """Say which of the packed names are new and which are gone."""
    before, after = map(_unpack, (then, now))
    parts = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:MAX_NAMED])}{more})"
        for what, names in (("added", after - before), ("gone", before - after))
        if names
        for more in [", ..." if len(names) > MAX_NAMED else ""]
    ]
    return ", ".join(parts) or "the same images, with other labels or in another order"


def _unpack(packed: str) -> frozenset[str]:
    text = zlib.decompress(base64.b85decode(packed)).decode("utf-8", "surrogateescape")
    return frozenset(text.split("\n"))
