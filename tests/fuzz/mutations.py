"""Damage to files and configs, drawn from a seeded generator."""

from __future__ import annotations

import copy
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

HEADER_BYTES = 64
SIZES = (0, 1, 2, 3, 127, 255, 256, 4097, 60000, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
PNG_START = b"\x89PNG\r\n\x1a\n"


def mutate_bytes(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Return the content after one to three kinds of damage; `others` are there to splice."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(BYTE_MUTATIONS)(rng, content, others) or content
    return content


def _flip_bits(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _edit_header(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Write a number of interest over some bytes near the start."""
    number = struct.pack(rng.choice((">I", "<I")), rng.choice(SIZES))[: rng.choice((1, 2, 4))]
    at = rng.randrange(min(len(content), HEADER_BYTES))
    return content[:at] + number + content[at + len(number) :]


def _truncate(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    return content[: rng.randrange(len(content))]


def _splice(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def _remove(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice((1, 4, 100)) :]


def _insert(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice((1, 4, 100))) + content[at:]


def _swap_blocks(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    a, b, c = sorted(rng.randrange(len(content)) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _mutate_png_chunks(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Swap, repeat, drop or edit chunks of a PNG, their checksums made right again."""
    chunks = _png_chunks(content)
    if len(chunks) < 2:
        return content
    kind = rng.randrange(4)
    one, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    if kind == 0:
        chunks[one], chunks[other] = chunks[other], chunks[one]
    elif kind == 1:
        chunks.insert(one, chunks[other])
    elif kind == 2:
        del chunks[one]
    elif chunks[one][1]:
        name, data = chunks[one]
        chunks[one] = (name, _edit_header(rng, data, others))
    return PNG_START + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(PNG_START)
    while content.startswith(PNG_START) and at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


BYTE_MUTATIONS: list[Callable[[random.Random, bytes, list[bytes]], bytes]] = [
    _flip_bits,
    _edit_header,
    _edit_header,
    _truncate,
    _splice,
    _remove,
    _insert,
    _swap_blocks,
    _mutate_png_chunks,
]


def mutate_text(rng: random.Random, text: str) -> str:
    """Return the text after one to three changes of lines, or of characters."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.splitlines() or [""]
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        place = rng.randrange(len(lines[at]) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 2:
            lines.insert(at, lines[other])
        elif kind == 3:
            lines[at] = lines[at].removeprefix(" ") if rng.random() < 0.5 else f"  {lines[at]}"
        elif kind == 4:
            sign = rng.choice("&*!%@`|>{}[],:#?-'\"<~\t 019e.")
            lines[at] = lines[at][:place] + sign + lines[at][place:]
        elif kind == 5:
            lines[at] = lines[at][:place] + lines[at][place + 1 :]
        else:
            key, colon, _ = lines[at].partition(":")
            lines[at] = key + colon + " " + rng.choice(HOSTILE_TEXTS)
        text = "\n".join(lines)
    return text


HOSTILE_TEXTS = (
    *("~", "''", "yes", "[", "{}", "*x", "&x 1", "!!python/name:os.system", "!!binary x", "1e999"),
    *("0x", "0o9", "1:99", "2001-99-99", ".nan", "-.inf", "9" * 400, "<<", "|", "? a", "${", "\\"),
)

HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 0.5, -0.5, 1e-30, 1e300),
    *(float("nan"), float("inf"), -(2**63), 2**64, 10**40),
    *("", " ", "x" * 1000, "../../..", "/dev/zero", "${HOME}", "${", "\0", "\u202e", "1", "None"),
    *([], {}, [[]], [None], [0, 0], [1, 2, 3, 4], [-1, 8], ["a", "b"], {"type": None}),
    *({"type": "SegFormer"}, {"type": ["x"]}, {"type": "Normalize"}, {1: 2}, {"a": {"b": {}}}),
)


def mutate_tree(rng: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """Return plain data after one to four changes of values, keys or places."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 4)):
        places = list(_places(tree))
        parent, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind <= 2:
            parent[key] = copy.deepcopy(rng.choice(HOSTILE_VALUES))
        elif kind == 3:
            del parent[key]
        elif kind == 4 and isinstance(parent, dict):
            name = str(key)
            at = rng.randrange(len(name) + 1)
            parent[name[:at] + rng.choice("aex_ 1") + name[at + 1 :]] = parent.pop(key)
        else:
            other, other_key = rng.choice(places)
            parent[key] = copy.deepcopy(other[other_key])
        if not list(_places(tree)):
            return tree
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return (container, key or index) of every value in the tree."""
    if not isinstance(tree, (dict, list)):
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    found = [(tree, key) for key in keys]
    for key in keys:
        found += _places(tree[key])
    return found
