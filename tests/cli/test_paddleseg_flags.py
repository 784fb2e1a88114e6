"""Command lines of PaddleSeg's programs run here: each flag is honoured, answered or refused."""

from __future__ import annotations

import argparse
import importlib

import pytest

from paddleseg_segformer.cli import main

# what PaddleSeg's programs of 2024 take, with a value where they need one
WINDOWS = {"--is_slide": "", "--crop_size": "64 32", "--stride": "48 16"}
SCALES = {"--scales": "0.75 1.0", "--flip_horizontal": "", "--flip_vertical": ""}
COMMON = {"--config": "a.yml", "--device": "cpu", "--save_dir": "out"}
FLAGS = {
    "train": {
        **COMMON, "--num_workers": "2", "--do_eval": "", "--use_vdl": "", "--use_ema": "",
        "--resume_model": "output/iter_10", "--iters": "10", "--batch_size": "2",
        "--learning_rate": "0.1", "--save_interval": "5", "--log_iters": "1",
        "--keep_checkpoint_max": "2", "--early_stop_intervals": "3", "--seed": "0",
        "--precision": "fp16", "--amp_level": "O2", "--profiler_options": "batch_range=[5,10]",
        "--data_format": "NCHW", "--repeats": "10", "--opts": "iters=5",
        "--to_static_training": "", "--output_op": "argmax", "--input_shape": "1 3 64 64",
        "--for_fd": "",
    },
    "val": {
        "--config": "a.yml", "--model_path": "a.pdparams", "--num_workers": "2", "--device": "cpu",
        "--aug_eval": "", **SCALES, **WINDOWS, "--data_format": "NCHW", "--opts": "iters=5",
    },
    "predict": {
        **COMMON, "--model_path": "a.pdparams", "--image_path": "a.jpg", "--aug_pred": "",
        **SCALES, **WINDOWS, "--custom_color": "0 0 0 255 255 255", "--opts": "iters=5",
    },
    "export": {
        "--config": "a.yml", "--save_dir": "out", "--model_path": "a.pdparams",
        "--input_shape": "1 3 64 64", "--output_op": "softmax",
    },
    "infer": {
        **COMMON, "--image_path": "a.jpg", "--batch_size": "2", "--use_trt": "False",
        "--precision": "fp32", "--min_subgraph_size": "3", "--enable_auto_tune": "False",
        "--auto_tuned_shape_file": "a.pbtxt", "--cpu_threads": "10", "--enable_mkldnn": "True",
        "--benchmark": "True", "--model_name": "segformer", "--with_argmax": "",
        "--print_detail": "False",
    },
}  # fmt: skip
ANSWERED = {
    "train": "--profiler_options --data_format --repeats --output_op --input_shape --for_fd",
    "val": "--data_format",
    "infer": "--min_subgraph_size --enable_auto_tune --auto_tuned_shape_file --enable_mkldnn "
    "--model_name --with_argmax --print_detail",
}


@pytest.mark.parametrize("job", FLAGS)
def test_all_flags_are_taken_and_those_without_effect_are_named_once(job, capsys) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"paddleseg_segformer.cli.{job}").add_arguments(parser)
    words = [word for flag, value in FLAGS[job].items() for word in (flag, *value.split())]
    args = parser.parse_args(words)
    lines = capsys.readouterr().err.splitlines()
    answered = ANSWERED.get(job, "").split()
    assert [line.split(": PaddleSeg's, without effect here: ")[0] for line in lines] == answered
    kept = {name.lstrip("-") for name in FLAGS[job]} - {name.lstrip("-") for name in answered}
    if job == "infer":
        kept = kept - {"config"} | {"export_dir"}
    assert kept <= set(vars(args)), "a flag is neither kept nor answered"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train --config a.yml --use_multilabel",
            "refused: a pixel has one class",
        ),
        ("val --use_multilabel", "refused: a pixel has one class"),
        ("predict --device_id 1", "refused: name the device by its number, as in --device gpu:1"),
        ("export --for_fd", "--output_op argmax --paddleseg_dir DIR"),
        ("infer --config a --benchmark maybe", "found 'maybe', expected True or False"),
    ],
)
def test_flags_that_would_change_the_result_are_refused(line, message, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
