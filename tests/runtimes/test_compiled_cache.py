"""Networks that OpenVINO compiled, kept for the next start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes import compiled_cache
from paddleseg_segformer.runtimes.compiled_cache import read_compiled, write_compiled
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions

KEY = {"files": ["a"], "shape": (1, 3, 8, 8)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "compiled"


def test_what_was_kept_is_read_by_its_key_alone(cache, monkeypatch) -> None:
    assert read_compiled(KEY) is None
    write_compiled(KEY, b"network")
    assert read_compiled(KEY) == b"network"
    assert read_compiled({**KEY, "files": ["b"]}) is None
    assert read_compiled({**KEY, "shape": None}) is None
    with monkeypatch.context() as patch:
        patch.setattr(compiled_cache, "_processor", lambda: ["another"])
        assert read_compiled(KEY) is None
    monkeypatch.setattr(compiled_cache, "__version__", "0.0.0")
    assert read_compiled(KEY) is None


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:40] + b"?" + c[41:], lambda c: b""]
)
def test_damaged_file_is_not_read(cache, damage) -> None:
    write_compiled(KEY, b"a network of some bytes")
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert read_compiled(KEY) is None
    write_compiled(KEY, b"anew")
    assert read_compiled(KEY) == b"anew"


def test_another_networks_file_under_this_name_is_not_read(cache) -> None:
    write_compiled(KEY, b"network")
    (path,) = cache.iterdir()
    write_compiled({**KEY, "shape": None}, b"another network")
    (other,) = set(cache.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert read_compiled(KEY) is None
    assert read_compiled({**KEY, "shape": None}) == b"another network"


def test_folder_that_cannot_be_made_keeps_nothing(cache) -> None:
    cache.parent.write_text("a file")
    write_compiled(KEY, b"network")
    assert read_compiled(KEY) is None


def test_files_unused_for_longest_go_first(cache, monkeypatch) -> None:
    monkeypatch.setattr(compiled_cache, "MAX_BYTES", 300)
    for index in range(3):
        write_compiled({"files": [index]}, bytes(60))
        for path in cache.iterdir():  # all are older than what follows
            os.utime(path, (time.time() - 100 + index, path.stat().st_mtime - 100))
    read_compiled({"files": [0]})
    write_compiled({"files": [3]}, bytes(60))
    found = [read_compiled({"files": [index]}) is not None for index in range(4)]
    assert found[0] and found[3] and sum(found) < 4


def test_network_out_of_the_cache_gives_the_same_without_compiling(
    export_tiny, cache, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("openvino")
    _, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1], ("onnx",))
    options = EngineOptions("openvino", "cpu", has_cache=True)
    x = paddle.randn([1, 3, 37, 51]).numpy()
    plain = load_network(folder, EngineOptions("openvino", "cpu"))
    expected = [plain(x) for _ in range(2)]  # for any size, then for this one
    first = load_network(folder, options)
    np.testing.assert_array_equal([first(x) for _ in range(2)], expected)
    assert len(list(cache.iterdir())) == 2

    class Refusing(type(first)):
        def _newly_compiled(self, shape):
            raise AssertionError("compiled again")

    second = Refusing(folder, options)
    np.testing.assert_array_equal([second(x) for _ in range(2)], expected)
    with pytest.raises(Exception, match="compiled again"):
        Refusing(folder, EngineOptions("openvino", "cpu", threads=2, has_cache=True))(x)

    for path in cache.iterdir():  # whole, but no network: compiled anew, and kept
        path.unlink()
    monkeypatch.setattr(
        "paddleseg_segformer.runtimes.openvino_backend.read_compiled", lambda key: b"no network"
    )
    third = load_network(folder, options)
    np.testing.assert_array_equal([third(x) for _ in range(2)], expected)
    assert len(list(cache.iterdir())) == 2


def test_python_keeps_nothing_unless_asked(export_tiny, cache, tmp_path) -> None:
    pytest.importorskip("openvino")
    _, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1], ("onnx",))
    Predictor.from_export(folder, "cpu", backend="openvino").pipeline.network(
        np.zeros((1, 3, 32, 32), np.float32)
    )
    assert not cache.exists()
