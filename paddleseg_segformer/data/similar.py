"""Images that nearly equal others: a hash of 64 bits, and searches that compare few pairs."""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePath
from statistics import median

import cv2
import numpy as np

MAX_BITS = 3  # that differ between near-duplicates; one of the four parts of 16 bits is then equal
MAX_BITS_OF_FRAMES = 10  # between neighbours in a video; unrelated photos differ in about 25
MIN_CONTRAST = 8  # of the reduced image, in levels of 0..255; flatter ones have no hash
_PARTS = 4

Hashes = Mapping[str, int]  # by the image's path
Sequences = dict[str, list[tuple[int, str]]]  # name without its last number -> numbers and paths


def difference_hash(image: np.ndarray) -> int | None:
    """Return 64 bits: whether each pixel of a reduction to 9x8 is brighter than its left neighbour.

    Args:
        image: (H, W, C), of which the first three channels count.

    Returns:
        None for an image that is nearly flat.
    """
    small = cv2.resize(np.ascontiguousarray(image[:, :, :3]), (9, 8), interpolation=cv2.INTER_AREA)
    grey = small.reshape(8, 9, -1).mean(axis=2)
    if np.ptp(grey) < (MIN_CONTRAST if image.dtype == np.uint8 else 1e-9):
        return None
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def find_similar(train: Hashes, val: Hashes) -> dict[str, str]:
    """Return images of `val` that nearly equal one of `train`: path -> path.

    Two images do where at most `MAX_BITS` bits differ, or `MAX_BITS_OF_FRAMES` where one follows
    the other among the files whose names differ by their last number alone.
    """
    buckets: defaultdict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    for path, value in train.items():
        for part in _parts(value):
            buckets[part].setdefault(value, path)
    sequences = _sequences(train)
    found = {}
    for path, value in val.items():
        near = {key: other for part in _parts(value) for key, other in buckets[part].items()}
        best = min(near, key=lambda key: _distance(key, value), default=None)
        if best is not None and _distance(best, value) <= MAX_BITS:
            found[path] = near[best]
            continue
        name, number = _name_and_number(path)
        numbered = sequences.get(name, [])
        place = bisect(numbered, (number, ""))
        for _, other in numbered[max(place - 1, 0) : place + 1]:
            if _distance(train[other], value) <= MAX_BITS_OF_FRAMES:
                found[path] = other
    return found


def find_shared_videos(train: Hashes, val: Hashes) -> dict[str, tuple[int, int]]:
    """Return the videos with frames in both: their files' common name -> number of frames in each.

    A video is files whose names differ by their last number alone, and of which neighbours are
    alike in `train` or in `val`: half of them differ in at most `MAX_BITS_OF_FRAMES` bits.
    """
    ours, theirs = _sequences(train), _sequences(val)
    return {
        name: (len(ours[name]), len(theirs[name]))
        for name in sorted(ours.keys() & theirs.keys())
        if _is_video(ours[name], train) or _is_video(theirs[name], val)
    }


def find_videos(hashes: Hashes) -> list[list[str]]:
    """Return images that belong to one video, in order; in other sequences, alike neighbours.

    Two neighbours are alike where at most `MAX_BITS_OF_FRAMES` bits differ.
    """
    found = []
    for numbered in _sequences(hashes).values():
        paths = [path for _, path in numbered]
        if _is_video(numbered, hashes):
            found.append(paths)
            continue
        found += [
            [first, second]
            for first, second in pairwise(paths)
            if _distance(hashes[first], hashes[second]) <= MAX_BITS_OF_FRAMES
        ]
    return found


def find_pairs(hashes: Hashes) -> list[list[str]]:
    """Return pairs of images that differ in at most `MAX_BITS` bits; equal ones in a chain."""
    first_of: dict[int, str] = {}
    found = []
    for path, value in hashes.items():
        if first_of.setdefault(value, path) != path:
            found.append([first_of[value], path])
    buckets: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for value in first_of:
        near = {other for part in _parts(value) for other in buckets[part]}
        found += [
            [first_of[other], first_of[value]]
            for other in sorted(near)
            if _distance(other, value) <= MAX_BITS
        ]
        for part in _parts(value):
            buckets[part].append(value)
    return found


def _is_video(numbered: list[tuple[int, str]], hashes: Hashes) -> bool:
    steps = [_distance(hashes[a], hashes[b]) for (_, a), (_, b) in pairwise(numbered)]
    return len(steps) > 1 and median(steps) <= MAX_BITS_OF_FRAMES


def _sequences(hashes: Hashes) -> Sequences:
    sequences: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in hashes:
        name, number = _name_and_number(path)
        sequences[name].append((number, path))
    return {name: sorted(numbered) for name, numbered in sequences.items()}


def _name_and_number(path: str) -> tuple[str, int]:
    """Return a file's name with a star for its last number, and that number; -1 without one."""
    name = PurePath(path).name
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
    return (f"{match[1]}*{match[3]}", int(match[2])) if match else (name, -1)


def _parts(value: int) -> list[tuple[int, int]]:
    return [(index, value >> 16 * index & 0xFFFF) for index in range(_PARTS)]


def _distance(first: int, second: int) -> int:
    return (first ^ second).bit_count()
