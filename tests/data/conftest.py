from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import write_cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Return the root of seven Cityscapes samples in two cities."""
    names = [f"aachen/aachen_{index:06}" for index in range(4)]
    return write_cityscapes(tmp_path, names + [f"ulm/ulm_{index:06}" for index in range(3)])
