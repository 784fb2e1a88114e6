"""Coverage-guided fuzzing of a family of readers: `python tests/fuzz/guided.py images 1800`.

Needs `pip install atheris` (Linux and macOS). It starts from sound files and `corpus/TARGET`, keeps
what reaches new code of this package in --keep, and stops at the first finding, which it leaves
there as `crash-*`. The small files of earlier runs are in `corpus/TARGET`; `test_guided.py` runs
them through the readers without atheris.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
TIMEOUT_S, MEMORY_MIB = 120, 4096  # on a busy machine the first case alone takes 30


def main() -> None:
    """Fuzz one target for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("seconds", type=int)
    parser.add_argument("--keep", type=Path, required=True, help="folder of all that was found")
    args = parser.parse_args()
    import atheris
    import paddle

    paddle.disable_signal_handler()  # else it ends the process before the case is written
    sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "serving")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with atheris.instrument_imports(include=["paddleseg_segformer"], enable_loader_override=False):
        from guided_targets import TARGETS, accept

        from paddleseg_segformer.data import headers

        target = TARGETS[args.target]
        run = target.start(Path(tempfile.mkdtemp()))
    headers._is_quick = lambda content: True  # atheris keeps some of each thread, and has a clock
    logging.disable()  # tifffile's remarks on each damaged tag
    args.keep.mkdir(parents=True, exist_ok=True)
    for name, content in target.seeds().items():
        (args.keep / f"seed-{name}").write_bytes(content)
    options = [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}"]
    options += [f"-max_len={target.max_bytes}", f"-max_total_time={args.seconds}"]
    options += [f"-artifact_prefix={args.keep}/", "-print_final_stats=1"]
    options += [str(args.keep), str(CORPUS / args.target)]
    atheris.Setup([sys.argv[0], *options], lambda data: accept(run, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
