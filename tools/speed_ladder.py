"""Thin command line: the same as `python -m paddleseg_segformer speed_ladder`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_segformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["speed_ladder", *sys.argv[1:]]))
