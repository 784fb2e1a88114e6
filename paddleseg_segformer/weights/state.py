"""Canonical weights of a file, read one at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.files.stored import StoredTensor
from paddleseg_segformer.weights.formats.naming import Names, Rule

CAST_TYPES = ("float16", "bfloat16", "float64")  # read as float32


@dataclass(frozen=True)
class Entry:
    """One canonical weight: where it comes from and its canonical shape."""

    rule: Rule
    names: list[str]  # in the file
    shape: tuple[int, ...]
    dtype: str


class State(Mapping[str, np.ndarray]):
    """Canonical name -> float32 array, read on access and not kept.

    Args:
        file: for messages.
        entries: by canonical name.
        tensors: by the file's names.
    """

    def __init__(
        self, file: Path, entries: Mapping[str, Entry], tensors: Mapping[str, StoredTensor]
    ) -> None:
        self.file = file
        self.entries = dict(entries)
        self._tensors = tensors

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self.entries[key]
        try:
            arrays = [self._tensors[name].read() for name in entry.names]
            array = entry.rule.read(arrays)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{self.file}: {entry.names[0]} cannot be read ({error}).") from None
        return array if array.dtype == np.float32 else array.astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a weight's shape without reading it."""
        return self.entries[key].shape

    def without_prefix(self, prefix: str) -> State:
        """Return the same weights; the names that start with `prefix` lose it."""
        entries = {key.removeprefix(prefix): entry for key, entry in self.entries.items()}
        return State(self.file, entries, self._tensors)

    def cast(self) -> dict[str, int]:
        """Return the number types that are not float32, and how many weights have each."""
        types = [entry.dtype for entry in self.entries.values() if entry.dtype != "float32"]
        return {name: types.count(name) for name in sorted(set(types))}


def find_entry(
    file: Path, names: Names, tensors: Mapping[str, StoredTensor], canonical: str
) -> Entry | None:
    """Look one canonical weight up in a file; None where the file lacks it.

    Raises:
        UserError: it is there, but cannot be a weight.
    """
    found = names.find(canonical)
    if found is None:
        return None
    rule, own = found
    stored = [tensors[name] for name in own]
    for name, item in zip(own, stored, strict=True):
        if item.dtype != "float32" and item.dtype not in CAST_TYPES:
            raise UserError(
                f"{file}: {name} is of type {item.dtype}, expected weights of a floating type."
            )
    if len({(item.shape[1:], item.dtype) for item in stored}) > 1:
        raise UserError(f"{file}: {' and '.join(own)} do not fit together.")
    return Entry(rule, own, rule.shape([item.shape for item in stored]), stored[0].dtype)


def check_finite(array: np.ndarray, key: str, file: Path) -> None:
    """Raise a `UserError` where a weight holds NaN or infinity."""
    with np.errstate(all="ignore"):
        is_finite = np.isfinite(array.sum(dtype=np.float32))  # one pass; NaN and inf carry through
    if not is_finite and not np.isfinite(array).all():
        raise UserError(
            f"{file}: {key} holds numbers that are not finite; these weights are of a run that "
            "diverged, or damaged."
        )
