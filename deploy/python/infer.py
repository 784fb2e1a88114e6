"""Thin command line: the same as `python -m paddleseg_segformer infer`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddleseg_segformer import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; return the exit status (1 with a one-line message if anything failed)."""
    return cli.main(["infer", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
