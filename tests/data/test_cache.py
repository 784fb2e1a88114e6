"""Caches of decoded samples: exact, bounded, shared by workers, and new where files change."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_datasets import write_cityscapes

from paddleseg_segformer.data import datasets
from paddleseg_segformer.data.cache import (
    FolderCache,
    RamCache,
    make_cache,
    pack,
    unpack,
    worker_context,
)
from paddleseg_segformer.data.datasets import Cityscapes
from paddleseg_segformer.data.loader import train_loader
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.transforms import RandomHorizontalFlip, RandomPaddingCrop
from paddleseg_segformer.errors import UserError

needs_linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory files of Linux")
PLACES = ["folder", pytest.param("ram", marks=needs_linux)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path / "data", [f"ulm/ulm_{index:06}" for index in range(5)])


def make(root: Path, cache=None) -> Cityscapes:
    transforms = [RandomPaddingCrop((16, 16)), RandomHorizontalFlip(), Normalize()]
    dataset = Cityscapes(transforms, str(root))
    dataset.cache = cache
    return dataset


def batches(dataset: Cityscapes, num_workers: int) -> list[tuple[np.ndarray, ...]]:
    loader = train_loader(dataset, 3, num_workers, seed=1)
    found = [(batch.img, batch.label) for batch in islice(loader, 6)]
    loader.close()
    return found


def cache_of(place: str, tmp_path: Path, gibibytes: float = 0.01):
    return make_cache("ram" if place == "ram" else str(tmp_path / "kept"), gibibytes, 5)


def count_reads(monkeypatch) -> list[str]:
    read: list[str] = []
    original = datasets.decode_image
    monkeypatch.setattr(
        datasets,
        "decode_image",
        lambda path, *rest: read.append(path.name) or original(path, *rest),
    )
    return read


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_samples_are_the_same_bit_for_bit(root, tmp_path, place, num_workers):
    plain = batches(make(root), 0)
    dataset = make(root, cache_of(place, tmp_path))
    for _ in range(2):
        for one, other in zip(plain, batches(dataset, num_workers), strict=True):
            for left, right in zip(one, other, strict=True):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_each_file_is_decoded_once(root, tmp_path, place, num_workers, monkeypatch):
    dataset = make(root, cache_of(place, tmp_path))
    batches(dataset, num_workers)  # the workers fill what this process finds
    read = count_reads(monkeypatch)
    batches(dataset, 0)
    assert not read
    batches(make(root), 0)
    assert len(read) == 18


@pytest.mark.parametrize("place", PLACES)
def test_changed_files_and_other_settings_are_read_anew(root, tmp_path, place, monkeypatch):
    cache = cache_of(place, tmp_path)
    dataset = make(root, cache)
    first = dataset._read_cached(*dataset.samples[0])
    path = Path(dataset.samples[0][1])
    label = np.full_like(first.label, 7)
    from paddleseg_segformer.data.io import write_label

    write_label(path, label)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(dataset._read_cached(*dataset.samples[0]).label, label)
    other = make(root, cache)
    other.num_classes = 18
    read = count_reads(monkeypatch)
    other._read_cached(*other.samples[0])
    assert len(read) == 1
    make(root, cache)._read_cached(*other.samples[0])
    assert len(read) == 1


@pytest.mark.parametrize("place", PLACES)
def test_no_more_is_kept_than_allowed(root, tmp_path, place, monkeypatch):
    plain = make(root)
    sample = plain.read_files(*plain.samples[0])
    one = len(pack(sample.image, sample.label))
    cache = cache_of(place, tmp_path, 2.5 * one / 2**30)
    dataset = make(root, cache)
    batches(dataset, 0)
    read = count_reads(monkeypatch)
    for index in range(5):
        dataset._read_cached(*dataset.samples[index])
    assert len(read) == 3
    if place == "folder":
        sizes = [path.stat().st_size for path in (tmp_path / "kept").rglob("*.sample")]
        assert sizes == [one, one]
        again = FolderCache(tmp_path / "kept", int(3.5 * one))  # a later run counts what is there
        make(root, again)._read_cached(*dataset.samples[4])
        again.put(b"9" * 16, bytes(one))
        assert len(list((tmp_path / "kept").rglob("*.sample"))) == 3


def test_damaged_file_is_read_anew(root, tmp_path):
    dataset = make(root, cache_of("folder", tmp_path))
    whole = dataset._read_cached(*dataset.samples[0])
    [path] = (tmp_path / "kept").rglob("*.sample")
    path.write_bytes(path.read_bytes()[:-5])
    np.testing.assert_array_equal(dataset._read_cached(*dataset.samples[0]).label, whole.label)
    assert unpack(b"") is None and unpack(path.read_bytes()) is not None


def test_full_disk_does_not_end_a_run(root, tmp_path, monkeypatch, caplog):
    from paddleseg_segformer.data import cache

    def full(path):
        raise OSError(28, "No space left on device")

    dataset = make(root, cache_of("folder", tmp_path))
    monkeypatch.setattr(cache, "atomic_path", full)
    for index in range(3):
        assert dataset._read_cached(*dataset.samples[index]).image.size
    assert caplog.text.count("cannot be written to") == 1


def fill(cache: RamCache, first: int) -> int:
    for number in range(first, first + 50):
        cache.put(number.to_bytes(16, "big"), number.to_bytes(4, "big") * 100)
    return os.getpid()


@needs_linux
def test_memory_is_shared_by_processes_that_write_at_once():
    cache = RamCache(2**20, 100)
    with ProcessPoolExecutor(
        2, mp_context=worker_context(), initializer=set_cache, initargs=(cache,)
    ) as pool:
        list(pool.map(fill_own, [1, 1, 26, 51]))
    for number in range(1, 101):
        assert cache.get(number.to_bytes(16, "big")) == number.to_bytes(4, "big") * 100
    assert cache.used[0] == 100 * 416
    assert cache.get((101).to_bytes(16, "big")) is None


shared: RamCache


def set_cache(cache: RamCache) -> None:
    global shared
    shared = cache


def fill_own(first: int) -> int:
    return fill(shared, first)


def test_wrong_sizes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cache_gib: found 0, expected more than 0"):
        make_cache("ram", 0, 5)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(TypeError, match="name a folder instead"):
        pickle.dumps(RamCache(100, 5))
