"""Mistakes of the command line are answered before Paddle is imported, in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg_segformer.cli import JOBS, TOOLS

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "--config segformer_b0_street_scenes_256x512"
NO_FLAG, NO_WEIGHTS = "unknown argument --nope", "nowhere: no such weight file"
NO_CONFIG = "config nowhere: neither a file nor the name of a packaged config"
NO_FOLDER = "file/x: expected a folder, found a file"
MISTAKES = {
    "fit": {
        "": "the following arguments are required: DATA",
        "nowhere": "nowhere: no such file or folder",
        "without --itres 5": "unknown argument --itres. Did you mean '--iters'?",
        "without --model b7": "--model: found 'b7', expected a config (.yml) or a name",
        "without --minutes 3 --iters 5": "--minutes and --iters each say how long to train",
        "without --export onxx": "format: found 'onxx'. Did you mean 'onnx'?",
        "without --bands 1;2": "argument --bands: found '1;2', expected numbers such as 1,2,3",
        "without --out file/x": NO_FOLDER,
        "without --format coko": "Did you mean 'coco'?",
        ".": "--out output/",
        "without": "recognised no annotations",
    },
    "train": {
        f"{CONFIG} --itres 5": "unknown argument --itres. Did you mean '--iters'?",
        "": "the following arguments are required: --config",
        f"{CONFIG} --iters x": "argument --iters: invalid int value: 'x'",
        f"{CONFIG} --precision fp8": "argument --precision: invalid choice: 'fp8'",
        "--config nowhere": NO_CONFIG,
        f"{CONFIG} --opts iterz=3": "unknown key 'iterz'. Did you mean 'iters'?",
        f"{CONFIG} --opts iters=x": "iters: found 'x', expected int",
        f"{CONFIG} --opts optimizer.type.x=1": "no 'x' in 'AdamW', which is not a section",
        f"{CONFIG} --opts model.pretrained=nowhere": "model.pretrained=nowhere: no such weight",
        f"{CONFIG} --iters 0": "iters: found 0, expected 1 or more",
        f"{CONFIG} --learning_rate -1": "--learning_rate: found -1.0, expected 0 or more",
        f"{CONFIG} --log_iters 0": "--log_iters: found 0, expected 1 or more",
        f"{CONFIG} --max_skipped 0": "--max_skipped: found 0, expected 1 or more",
        f"{CONFIG} --early_stop_intervals 0": "--early_stop_intervals: found 0, expected 1",
        f"{CONFIG} --max_minutes 0": "--max_minutes: found 0, expected more than 0",
        f"{CONFIG} --freeze_stages x": "argument --freeze_stages: invalid int value",
        f"{CONFIG} --trackers tensorbord": "Did you mean 'tensorboard'?",
        f"{CONFIG} --class_balanced_sampling 2": "expected a share, 0 to 1",
        f"{CONFIG} --resume_model nowhere": "--resume_model nowhere: expected a folder such as",
        f"{CONFIG} --save_dir file/x": NO_FOLDER,
    },
    "val": {
        "--nope": NO_FLAG,
        "": "--config is missing",
        CONFIG: "--model_path is missing",
        f"{CONFIG} --model_path nowhere": NO_WEIGHTS,
        "--model_path nowhere": NO_WEIGHTS,
        "--config nowhere --model_path file": NO_CONFIG,
        f"{CONFIG} --model_path file --opts iterz=3": "unknown key 'iterz'",
        f"{CONFIG} --model_path file --json file/x": "file: expected a folder, found a file",
        f"{CONFIG} --model_path file --per_image_csv .": "expected a file, found a folder",
        f"{CONFIG} --model_path file --report file": "file: expected a folder, found a file",
    },
    "report": {
        "": "the following arguments are required: RUN_DIR",
        "nowhere": "nowhere: no such folder. Name the --save_dir of a training run",
        ". --num_shown -1": "--num_shown: found -1, expected 0 or more",
        ". --model_path nowhere": NO_WEIGHTS,
        ". --out file/x": NO_FOLDER,
    },
    "curves": {
        "": "the following arguments are required: RUN_DIR",
        "nowhere": "nowhere: no such folder. Name the --save_dir of a training run",
        ". --save_dir file/x": NO_FOLDER,
    },
    "import_log": {
        "": "the following arguments are required: LOG, --save_dir",
        "nowhere --save_dir out": "nowhere: expected a training log, found nothing",
        "file --save_dir file/x": NO_FOLDER,
        "file --save_dir out": "file: found no step and no score of a training run",
    },
    "compare": {
        "": "the following arguments are required: A, B, DATA",
        "nowhere file x": NO_WEIGHTS,
        "file file nowhere": NO_CONFIG,
        "file file x --num_workers 0": "--num_workers: found 0, expected 1 or more",
        "file file x --save_dir file/x": NO_FOLDER,
        "file file x --backend tvm": "argument --backend: invalid choice: 'tvm'",
    },
    "robustness": {
        "": "the following arguments are required: MODEL, DATA",
        "nowhere x": NO_WEIGHTS,
        "file nowhere": NO_CONFIG,
        "file x --num_workers 0": "--num_workers: found 0, expected 1 or more",
        "file x --corruptions rain": "invalid choice: 'rain'",
        "file x --noise_severities 6": "argument --noise_severities: invalid choice: 6",
        "file x --save_dir file/x": NO_FOLDER,
    },
    "resolution_sweep": {
        "": "the following arguments are required: MODEL, DATA, --short_sides, --window",
        "nowhere x --short_sides 64 --window 32": NO_WEIGHTS,
        "file nowhere --short_sides 64 --window 32": NO_CONFIG,
        "file x --short_sides 64 0 --window 32": "--short_sides: found 0, expected 1 or more",
        "file x --short_sides 64 --window 32 --save_dir file/x": NO_FOLDER,
        "file file x --short_sides 64 --window 32": "MODEL: one is named twice",
    },
    "predict": {
        "--nope": NO_FLAG,
        "": "--image_path is missing",
        "--image_path nowhere.jpg": "nowhere.jpg: no such file or folder",
        "--image_path nowhere.mp4 --model_path file": "nowhere.mp4: no such file",
        "--image_path a.jpg": "give --config and --model_path, or --export_dir",
        "--image_path a.jpg --model_path nowhere": NO_WEIGHTS,
        "--image_path a.jpg --model_path file --config nowhere": NO_CONFIG,
        "--image_path a.jpg --export_dir nowhere": "nowhere: no such file",
        "--image_path a.jpg --model_path file --save_dir file/x": NO_FOLDER,
        "--image_path a.jpg --min_confidence 2": "--min_confidence: found 2.0, expected 0 to 1",
        "--image_path a.jpg --use_trt maybe": "argument --use_trt: found 'maybe', expected True",
    },
    "infer": {
        "--nope": "required: --config",
        "--config nowhere --image_path a.jpg": "nowhere: no such file",
        "--config nowhere --image_path a.jpg --backend tvm": "invalid choice: 'tvm'",
        "--config nowhere --image_path a.jpg --save_dir file/x": NO_FOLDER,
    },
    "visualize": {
        "--nope": NO_FLAG,
        "--image_path a.jpg": "--model_path is missing",
        "--model_path file": "--image_path is missing",
        "--image_path a.jpg --model_path nowhere": NO_WEIGHTS,
        "--image_path a.jpg --model_path file --save_dir file/x": NO_FOLDER,
    },
    "erf": {
        "": "the following arguments are required: MODEL",
        "nowhere --image_path a.jpg": "nowhere: no such model",
        "file --size 0": "--size: found 0, expected 1 or more",
        "file": "--image_path is missing",
        "file --image_path a.jpg --save_dir file/x": NO_FOLDER,
    },
    "export": {
        "--nope": NO_FLAG,
        "": "--config is missing",
        "--config nowhere": NO_CONFIG,
        f"{CONFIG} --model_path nowhere": NO_WEIGHTS,
        f"{CONFIG} --format onxx": "format: found 'onxx'. Did you mean 'onnx'?",
        f"{CONFIG} --save_dir file": "file: expected a folder, found a file",
        f"{CONFIG} --save_dir file/x": NO_FOLDER,
        f"{CONFIG} --gate_images 3": "--gate_images has no effect without --format int8",
        f"{CONFIG} --output_op max": "argument --output_op: invalid choice: 'max'",
        f"{CONFIG} --speed fsat": "argument --speed: invalid choice: 'fsat'",
        f"{CONFIG} --allow_loss": "--allow_loss has no effect without --speed",
        f"{CONFIG} --speed fast --format int8": "--speed writes INT8 where it is best",
        f"{CONFIG} --speed fast --output_op argmax": "--speed: found --output_op argmax",
        f"{CONFIG} --speed fast --data nowhere": "nowhere: no such file (--data)",
        f"{CONFIG} --speed fast --max_class_drop -1": "--max_class_drop: found -1, expected 0",
    },
    "speed_ladder": {
        "--nope": NO_FLAG,
        "": "--config is missing",
        f"{CONFIG} --model_path nowhere": NO_WEIGHTS,
        f"{CONFIG} --save_dir file/x": NO_FOLDER,
        f"{CONFIG} --gate_images 0": "expected 1 or more",
    },
    "serve": {
        "--config nowhere": "nowhere: no such file",
        "--config nowhere --port x": "argument --port: invalid int value",
        "--config nowhere --max_batch 0": "--max_batch: found 0",
    },
    "convert_weights": {
        "file": "required: DEST, --to",
        "file out --to onnx": "argument --to: invalid choice: 'onnx'",
        "nowhere out --to hf": NO_WEIGHTS,
        "a.jpg file/x --to hf": "file: expected a folder, found a file",
    },
    "convert_dataset": {
        "": "the following arguments are required: DATA",
        ".": "--out is missing",
        "nowhere --dry_run": "nowhere: no such folder",
        ". --out file/x": NO_FOLDER,
        ". --dry_run": "recognised no annotations among",
        ". --dry_run --format cocoo": "unknown annotation_format type 'cocoo'. Did you mean 'coco'",
        ". --dry_run --label_values x": "argument --label_values: found 'x', expected numbers",
        ". --out out --to voc --preview 3": "--to voc: excludes --preview and --bands",
        ". --dry_run --labels mask.png": "expected {stem} once",
    },
    "check_dataset": {
        "--config nowhere": NO_CONFIG,
        f"{CONFIG} --split test": "argument --split: invalid choice",
        f"{CONFIG} --opts iterz=3": "unknown key 'iterz'",
        f"{CONFIG} --opts train_dataset.dataset_root=nowhere --split train": "nowhere: no such",
        f"{CONFIG} --json file/x": "file: expected a folder, found a file",
    },
    "make_dataset": {
        "--nope": NO_FLAG,
        "--num_val -1": "num_val: found -1, expected 0 or more",
        "--save_dir file/x": NO_FOLDER,
    },
    "complexity": {
        "--models B9": "--models: found 'B9'. Known: B0",
        "--config nowhere": NO_CONFIG,
        "--sizes 0": "argument --sizes: found '0', expected a side or HEIGHTxWIDTH",
        "--num_classes 0": "--num_classes: found 0, expected 1 or more",
        "--json file/x": "file: expected a folder, found a file",
    },
    "list_models": {"--nope": NO_FLAG},
    "quickstart": {
        "--nope": NO_FLAG,
        "--iters 0": "--iters: found 0, expected 1 or more",
    },
    "benchmark": {
        "--nope": NO_FLAG,
        "--engines tvm": "found 'tvm'",
        "--work_dir file/x": NO_FOLDER,
    },
    "compare_engines": {
        "--nope": NO_FLAG,
        "--ways ourz": "--ways: found 'ourz'",
        "--model_path nowhere": NO_WEIGHTS,
        "--work_dir file/x": NO_FOLDER,
    },
    "chaos": {
        "--nope": NO_FLAG,
        "--kills 0": "--kills: found 0, expected 1 or more",
        "--save_dir file/x": NO_FOLDER,
    },
}
SCRIPTS = {name: ROOT / "tools" / f"{name}.py" for name in MISTAKES}
SCRIPTS["deploy/python/infer.py"] = ROOT / "deploy" / "python" / "infer.py"
DRIVER = """
import contextlib, io, json, runpy, sys
_, script, commands = sys.argv
answers = []
for flags in json.loads(commands):
    errors, sys.argv = io.StringIO(), [script, *flags.split()]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(script, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
    answers.append([status, errors.getvalue()])
print(json.dumps(answers))
"""


def test_every_job_is_here() -> None:
    assert set(MISTAKES) == {*JOBS, *TOOLS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_mistakes_are_answered_in_one_line_without_paddle(name: str, tmp_path: Path) -> None:
    if name == "fit":
        pytest.importorskip("matplotlib")  # without it, `fit` answers that first
    paddle = tmp_path / "without" / "paddle" / "__init__.py"
    paddle.parent.mkdir(parents=True)
    paddle.write_text("raise RuntimeError('Paddle is imported')")
    for file in ("file", "a.jpg"):
        (tmp_path / file).touch()
    mistakes = MISTAKES[name if name in MISTAKES else "infer"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(SCRIPTS[name]), json.dumps(list(mistakes))],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{paddle.parents[1]}:{ROOT}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for (flags, expected), (status, errors) in zip(mistakes.items(), answers, strict=True):
        assert status in (1, 2), (flags, errors)
        assert expected in errors, (flags, errors)
        assert errors.startswith("error: ") and errors.count("\n") == 1, (flags, errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "file", "without"]
