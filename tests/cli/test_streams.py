"""Standard streams that are closed, full, or read by nobody; a stale launcher's variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "tests" / "artefacts"
READER_GONE = 141  # as the shell has it for programs that SIGPIPE ends
INFER = (
    f"{ROOT}/tools/infer.py --config {ARTEFACTS}/export --image_path {ARTEFACTS}/scenes/leftImg8bit"
    " --backend onnxruntime --save_dir out"
)


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    line = ["bash", "-c", command.replace("PYTHON", sys.executable)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def test_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    listing = f"PYTHON {ROOT}/tools/list_models.py"
    for unbuffered, status in (("", 0), ("1", READER_GONE)):
        done = run(f"{listing} | true; exit $PIPESTATUS", tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert (done.returncode, done.stderr) == (status, "")
    full = run(f"{listing} > /dev/full", tmp_path)
    assert (full.returncode, full.stderr) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("end", ["| true; exit $PIPESTATUS", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_job_is_done_without_a_stream(tmp_path: Path, end: str) -> None:
    done = run(f"PYTHON {INFER} {end}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    maps = list((tmp_path / "out" / "pseudo_color_prediction").rglob("*.png"))
    assert len(maps) == len(list((ARTEFACTS / "scenes" / "leftImg8bit").rglob("*.png")))


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    """A library's remark on stderr would be written into one."""
    (tmp_path / "own.py").write_text(
        "import os, sys\n"
        "from paddleseg_segformer.cli import main\n"
        "try:\n    main(['list_models', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "handle = os.open('file', os.O_WRONLY | os.O_CREAT)\n"
        "sys.exit(handle <= 2)\n"
    )
    assert run("PYTHON own.py 2>&-", tmp_path).returncode == 0


@pytest.mark.parametrize(("rank", "number"), [("x", "1"), ("5", ""), ("2", "2"), ("0", "-1")])
def test_wrong_share_of_a_launcher_is_refused(tmp_path: Path, rank: str, number: str) -> None:
    """Images would be left out without a word."""
    variables = {"PADDLE_TRAINER_ID": rank, "PADDLE_TRAINERS_NUM": number}
    done = run(f"PYTHON {INFER}", tmp_path, **variables)
    assert done.returncode == 1
    assert f"found {rank} and {number or 1}, expected the number of this process" in done.stderr
    assert done.stderr.count("\n") == 1


def test_empty_name_of_the_results_is_refused(tmp_path: Path) -> None:
    """Of a variable that is not set: the results would have gone to the root of the disk."""
    done = run(f"PYTHON {INFER.replace('out', '')}''", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "found an empty name, expected a folder" in done.stderr


def test_onnx_runtime_tells_nobody_of_its_use(tmp_path: Path) -> None:
    """It keeps what it is to send below the home folder, with a number for the machine."""
    home = tmp_path / "home"
    home.mkdir()
    done = run(f"PYTHON {INFER}", tmp_path, HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if "Microsoft" in str(path)]
