"""The data and the model of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_data import MODEL, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("own") / "scenes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.yml"
    path.write_text(MODEL)
    return str(path)
