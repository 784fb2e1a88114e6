"""YAML files: inheritance, variables, overrides, typed checks, and what a mistake says."""

from __future__ import annotations

import pytest
import yaml

from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_component, build_loss, build_model
from paddleseg_segformer.errors import UserError, UserErrors
from paddleseg_segformer.losses import LOSSES
from paddleseg_segformer.predictor import label_set_of

pytestmark = pytest.mark.check

PACKAGED = "segformer_b0_camvid_480x360"
CHILD = """
_base_: base.yml
batch_size: 4
optimizer: {_inherited_: False, type: AdamW, weight_decay: 5e-2}
train_dataset: {dataset_root: '${STREETS_ROOT:-data/streets}'}
model: {type: SegFormer, num_classes: 19, backbone: {type: MixVisionTransformer_B0}}
"""
BASE = """
iters: 100
train_dataset: {type: Cityscapes, mode: train, transforms: [{type: Normalize}]}
optimizer: {type: sgd, momentum: 0.9}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "base.yml").write_text(BASE)
    (tmp_path / "child.yml").write_text(CHILD)
    return tmp_path / "child.yml"


def test_child_is_merged_over_base(path):
    config = load_config(path)
    assert (config.iters, config.batch_size) == (100, 4)
    assert config.train_dataset["type"] == "Cityscapes"
    assert config.train_dataset["dataset_root"] == "data/streets"
    assert config.optimizer == {"type": "AdamW", "weight_decay": 0.05}


def test_config_of_a_model_alone(tmp_path):
    file = tmp_path / "config.yml"
    file.write_text("model: {type: SegFormer}\ntest_config: {is_one_step: true}")
    config = load_config(file)
    assert config.train_dataset is None and config.val_dataset is None
    assert config.test_config.inference_settings().is_one_step
    file.write_text(config.to_yaml())
    assert load_config(file) == config


def test_environment_variable_replaces_the_default(path, monkeypatch):
    monkeypatch.setenv("STREETS_ROOT", "/datasets/streets")
    assert load_config(path).train_dataset["dataset_root"] == "/datasets/streets"


def test_overrides_reach_nested_keys_and_list_items(path):
    opts = [
        "train_dataset.transforms.0.mean=[0.4, 0.4, 0.4]",
        "lr_scheduler.learning_rate=1e-4",
        "iters=7",
    ]
    config = load_config(path, opts)
    assert config.train_dataset["transforms"][0]["mean"] == [0.4, 0.4, 0.4]
    assert config.lr_scheduler["learning_rate"] == 1e-4
    assert config.iters == 7


def test_written_config_loads_back_equal(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yml") == config


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["bach_size=2"], "unknown key 'bach_size'. Did you mean 'batch_size'?"),
        (["batch_size=two"], "batch_size: found 'two', expected int"),
        (["batch_size=0"], "batch_size: found 0, expected 1 or more"),
        (["test_config.crop_sise=[1, 1]"], "'test_config.crop_sise'. Did you mean 'crop_size'?"),
        (["trian_dataset.mode=val"], "unknown key 'trian_dataset'. Did you mean 'train_dataset'?"),
        (["iters"], "expected KEY=VALUE"),
        (["train_dataset.transforms.3.prob=1"], "expected an index from 0 to 0"),
        (["model.backbon.type=x"], "no key 'backbon'. Did you mean 'backbone'?"),
        (["optimizer=[1"], "not valid YAML"),
        (["train_dataset={mode: train}"], "train_dataset: no `type`"),
    ],
)
def test_wrong_override_is_one_line_that_names_it(path, opts, message):
    with pytest.raises(UserError) as caught:
        load_config(path, opts)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType, expected keys and values"),
        ("a: [1", "not valid YAML"),
        ("_base_: nowhere.yml", "no such file, named by `_base_`"),
        ("_base_: segformer_b9_camvid_480x360", "no such file, named by `_base_`"),
        ("_base_: '/'", "no such file, named by `_base_`"),
        ("_base_: wrong.yml", "leads back to itself"),
        ("iters: 1\niters: 2", "line 2: the key 'iters' stands in line 1 already"),
        ("iters: 3", "no key 'model'"),
        ("model: {type: '${NOT_SET_ROOT}'}", "environment variable is not set"),
        ("model: {type: '${HOME}'}", "${HOME}: only variables whose names end in _ROOT"),
        ("model: {pretrained: 'http://a/${DATA_ROOT:-x}'}", "are not replaced in URLs"),
    ],
)
def test_wrong_file_is_one_line_that_names_it(tmp_path, text, message):
    file = tmp_path / "wrong.yml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [PACKAGED, f"{PACKAGED}.yml", f"configs/{PACKAGED}.yml"])
def test_packaged_config_is_a_base_by_name_wherever_the_file_stands(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text(f"_base_: {name}\niters: 3")
    assert load_config("mine.yml") == load_config(PACKAGED, ["iters=3"])


@pytest.mark.parametrize("name", [PACKAGED, f"{PACKAGED}.yml"])
def test_base_beside_the_config_comes_before_the_packaged_one(path, name):
    path.with_name(f"{PACKAGED}.yml").write_text("_base_: child.yml\nbatch_size: 7")
    mine = path.with_name("mine.yml")
    mine.write_text(f"_base_: {name}\niters: 3")
    assert load_config(mine) == load_config(path, ["iters=3", "batch_size=7"])


def test_config_of_a_packaged_ones_name_can_build_on_it(tmp_path):
    (tmp_path / f"{PACKAGED}.yml").write_text(f"_base_: {PACKAGED}\niters: 3")
    assert load_config(tmp_path / f"{PACKAGED}.yml") == load_config(PACKAGED, ["iters=3"])


def test_bases_that_many_files_name_are_read_once(path):
    for i in range(40):
        base = f"b{i - 1}.yml" if i else "child.yml"
        path.with_name(f"b{i}.yml").write_text(f"_base_: [{base}, ./{base}]\niters: {i}")
    assert load_config(path.with_name("b39.yml")) == load_config(path, ["iters=39"])


def test_long_row_of_bases_is_refused(path):
    for i in range(60):
        path.with_name(f"b{i}.yml").write_text(f"_base_: b{i + 1}.yml")
    with pytest.raises(UserError, match="more than 50 files, each the `_base_` of the next"):
        load_config(path.with_name("b0.yml"))


def test_missing_config_suggests_a_packaged_one():
    with pytest.raises(UserError, match="Did you mean 'segformer_b0_camvid_480x360'"):
        load_config("segformer_b0_camvid_480x36")


@pytest.mark.parametrize(
    ("kind", "section", "message"),
    [
        ("transform", {"type": "RandomHorizontalFlipp"}, "Did you mean 'RandomHorizontalFlip'?"),
        (
            "backbone",
            {"type": "MixVisionTransformer_B0", "drop_pth_rate": 1},
            "Did you mean 'drop_path_rate'?",
        ),
        ("loss", {"type": "OhemCrossEntropyLoss", "tresh": 1}, "Did you mean 'thresh'?"),
        ("model", {"type": "SegFormer"}, "SegFormer needs num_classes, backbone"),
        ("model", {"num_classes": 2}, "expected keys with a `type`"),
    ],
)
def test_wrong_component_is_named_with_a_suggestion(kind, section, message):
    with pytest.raises(UserError) as caught:
        build_component(kind, section, "section")
    assert message in str(caught.value)


def test_class_count_of_model_and_data_set_must_agree(path):
    with pytest.raises(
        UserError, match="model.num_classes is 7, but train_dataset .* has 19 classes"
    ):
        build_model(load_config(path, ["model.num_classes=7"]))


def test_loss_needs_one_type_and_the_data_sets_ignore_index():
    ce = {"type": "CrossEntropyLoss"}
    with pytest.raises(UserError, match="expected one each"):
        build_loss({"types": [ce, ce], "coef": [1, 1]})
    with pytest.raises(UserError, match="ignore_index is 0, but the data set's is 255"):
        build_loss({"types": [{**ce, "ignore_index": 0}], "coef": [1]})


@pytest.mark.parametrize("other", ["DiceLoss", "LovaszSoftmaxLoss"])
def test_data_sets_ignore_index_reaches_the_parts_of_a_mixed_loss(other):
    if other not in LOSSES:
        pytest.importorskip("paddleseg", reason=f"{other} is PaddleSeg's")
    parts = [{"type": "CrossEntropyLoss"}, {"type": other}]
    mixed = {"type": "MixedLoss", "losses": parts, "coef": [1, 0.5]}
    loss, coefficient = build_loss({"types": [mixed], "coef": [2]}, ignore_index=254)
    assert coefficient == 2.0
    assert [part.ignore_index for part in loss.losses] == [254, 254]


def test_yaml_numbers_without_a_point_are_numbers(path):
    assert load_config(path, ["optimizer.epsilon=1e-8"]).optimizer["epsilon"] == 1e-8
    assert yaml.safe_load("1e-8") == "1e-8"  # what plain PyYAML makes of it


def test_keys_of_paddleseg_without_effect_are_named_once(path, caplog):
    text = path.read_text() + "export: {transforms: []}\nprint_mem_info: true\n"
    path.write_text(text + "test_config: {auc_roc: false, scales: '0.75,1.0'}\n")
    config = load_config(path)
    assert config.test_config.scales == [0.75, 1.0]
    expected = "keys of PaddleSeg without effect here: export, print_mem_info, test_config.auc_roc"
    assert caplog.text.count(expected) == 1
    with pytest.raises(UserError, match="unknown key 'exports'"):
        load_config(path, ["exports=1"])
    assert not load_config(path, ["test_config.use_multilabel=False"]).test_config.is_slide
    with pytest.raises(UserError, match="use_multilabel: found true, but a pixel has one class"):
        load_config(path, ["test_config.use_multilabel=True"])


def test_none_of_python_is_null(path):
    config = load_config(path, ["model.backbone.pretrained=None", "test_config.scales=0.5,2"])
    assert config.model["backbone"]["pretrained"] is None
    assert config.test_config.scales == [0.5, 2.0]


def test_number_of_classes_is_the_data_sets(path):
    path.write_text(path.read_text().replace("num_classes: 19, ", ""))
    assert build_model(load_config(path)).num_classes == 19
    other = ["train_dataset={type: Dataset, num_classes: 5}"]
    assert build_model(load_config(path, other)).num_classes == 5


def test_classes_are_a_file_of_names_in_files_and_overrides(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("road\n\n sky \n", encoding="utf-8")
    path.write_text(path.read_text() + "val_dataset: {type: Dataset, classes: names.txt}\n")
    for opts in ((), ("val_dataset.classes=names.txt",), ("val_dataset.classes=[road, sky]",)):
        config = load_config(path, opts)
        assert config.val_dataset["classes"] == ["road", "sky"]  # also where the file is not
    config = load_config(path, ["val_dataset.classes=nowhere.txt"])
    with pytest.raises(UserError, match="nowhere.txt"):
        label_set_of(config.val_dataset, 2)


def test_variables_that_are_not_set_are_named_at_once(path, monkeypatch):
    monkeypatch.delenv("A_ROOT", raising=False)
    path.write_text(path.read_text() + "hooks: [{a: '${A_ROOT}'}, ['x${B_ROOT}', '${C}']]")
    with pytest.raises(UserErrors) as caught:
        load_config(path)
    assert [line[:9] for line in caught.value.mistakes] == ["${A_ROOT}", "${B_ROOT}", "${C}: onl"]
