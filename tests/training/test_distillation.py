"""Distillation: its losses beside PaddleSeg's, whole runs, and what does not fit together."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from small_models import small_segformer, small_vit
from small_runs import assert_equal_weights, train, train_log, weights

from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.schema import DistillConfig
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.losses import KLLoss
from paddleseg_segformer.models import LinearSegmenter, SegFormerMM
from paddleseg_segformer.training.distillation import Distillation, Learners, Teacher

FEATURES = "distill.feature_coef=1.0"


@pytest.fixture
def taught(folder):
    """Train a wider teacher for a few steps; return the run's folder."""
    wider = ("--opts", "model.backbone.embed_dims=[16, 16, 40, 64]")
    assert train(folder, "teacher", *wider) == 0
    return folder


def teacher_of(folder) -> str:
    return f"distill.teacher={folder / 'teacher' / 'iter_6'}"


def made(student, teacher, **section) -> Distillation:
    loaded = Teacher.__new__(Teacher)
    teacher.eval()
    loaded.network, loaded.normalize = teacher, None
    config = DistillConfig("teacher", feature_coef=1.0, **section)
    return Distillation(student, loaded, config, KLLoss(), nullcontext)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_loss_is_paddlesegs(temperature) -> None:
    kl_loss = pytest.importorskip("paddleseg.models.losses.kl_loss")
    logits, taught = paddle.randn([2, 5, 6, 7]), 3 * paddle.randn([2, 5, 6, 7])
    label = paddle.randint(0, 5, [2, 6, 7])
    label[0, :4] = 255
    results = []
    for loss in (kl_loss.KLLoss(255, temperature), KLLoss(255, temperature)):
        x = logits.clone()
        x.stop_gradient = False
        value = loss(x, taught, label)
        value.backward()
        results.append((float(value), x.grad.numpy()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-7)


def test_loss_is_that_of_logits_and_features_of_both() -> None:
    student, teacher = (small_segformer(5, SegFormerMM) for _ in range(2))
    distillation = made(student, teacher)
    assert not distillation.parameters()  # as wide: nothing is projected
    images = paddle.randn([2, 3, 64, 96])
    label = paddle.randint(0, 5, [2, 64, 96])
    with paddle.no_grad():
        logits = paddle.nn.functional.interpolate(student(images), [64, 96], mode="bilinear")
        found = float(distillation(images, logits, label))
        taught = paddle.nn.functional.interpolate(teacher(images), [64, 96], mode="bilinear")
        features = [[x.numpy() for x in net.backbone(images)] for net in (student, teacher)]
    units = [[x / np.linalg.norm(x, axis=1, keepdims=True) for x in item] for item in features]
    expected = float(KLLoss()(logits, taught, label))
    for mine, theirs in zip(*units, strict=True):
        expected += ((mine - theirs) ** 2).sum(axis=1).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_projections_learn_and_names_of_the_student_stay() -> None:
    student = small_segformer(5)
    distillation = made(student, small_segformer(5, embed_dims=(16, 16, 40, 64)))
    learners = dict(Learners(student, distillation).named_parameters())
    own = {name for name, _ in student.named_parameters()}
    assert own < learners.keys()
    widths = {name: item.shape for name, item in learners.items() if name not in own}
    assert widths == {
        f"distillation.projections.{stage}.{name}": shape
        for stage, narrow, wide in ((0, 8, 16), (2, 20, 40), (3, 32, 64))
        for name, shape in (("weight", [narrow, wide]), ("bias", [wide]))
    }
    student.train()
    images, label = paddle.randn([1, 3, 64, 64]), paddle.zeros([1, 64, 64], "int64")
    logits = paddle.nn.functional.interpolate(student(images), [64, 64], mode="bilinear")
    distillation(images, logits, label).backward()
    assert all(float(item.grad.abs().sum()) > 0 for item in distillation.parameters())
    assert all(item.grad is None for item in distillation.teacher.network.parameters())
    assert student.backbone.patch_embed1.proj.weight.grad is not None


def test_layers_of_two_families_are_compared_by_name() -> None:
    student, teacher = LinearSegmenter(5, small_vit()), LinearSegmenter(5, small_vit(embed_dim=48))
    assert [item.weight.shape for item in made(student, teacher).projections] == [[24, 48]]
    named = [["block2.0", "block3.0"], ["backbone.block4", "backbone.block4.0"]]
    with pytest.raises(UserError, match="SegFormer has no layer 'block2.0'"):
        made(small_segformer(5), small_segformer(5), layers=named)
    with pytest.raises(UserError, match=r"found outputs \[\[1, 16, 16, 8\].* of the model and"):
        made(small_segformer(5), teacher)
    with pytest.raises(UserError, match="'backbone.block4' gives no map"):
        made(small_segformer(5), small_segformer(5), layers=named[1:])


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: small_segformer(4), "has 4 classes, the model 5"),
        (lambda: small_segformer(5, in_channels=1), "has 1 channels, the model 3"),
    ],
)
def test_teacher_of_another_task_is_refused(teacher, message) -> None:
    with pytest.raises(UserError, match=message):
        made(small_segformer(5), teacher())


@pytest.mark.check
def test_run_with_a_teacher_resumes_bit_for_bit(taught, capsys) -> None:
    flags = ("--save_interval", "2", "--use_ema", "--do_eval")
    options = ("--opts", teacher_of(taught), FEATURES)
    assert train(taught, "whole", *flags, *options) == 0
    assert train(taught, "parts", *flags, *options) == 0
    for name in ("iter_6", "iter_4", "best_model"):
        shutil.rmtree(taught / "parts" / name)
    assert train(taught, "parts", *flags, *options, "--resume_model", "auto") == 0
    assert_equal_weights(taught, "whole", "parts", "iter_6")
    losses = [[line["Train/loss"] for line in train_log(taught, out)] for out in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert not [key for key in weights(taught, "whole", "iter_6") if "projections" in key]
    capsys.readouterr()
    wider = "distill.feature_coef=0"
    assert train(taught, "parts", *options, wider, "--resume_model", "auto", "--iters", "8") == 1
    assert "projects other features for distillation" in capsys.readouterr().err


def test_teacher_changes_the_run_and_not_what_is_saved_of_it(taught) -> None:
    assert train(taught, "alone") == 0
    nothing = "distill.loss={types: [{type: KLLoss}], coef: [0]}"
    assert train(taught, "nothing", "--opts", teacher_of(taught), nothing) == 0
    assert_equal_weights(taught, "alone", "nothing", "iter_6")
    assert train(taught, "logits", "--opts", teacher_of(taught)) == 0
    one, other = (weights(taught, out, "iter_6") for out in ("alone", "logits"))
    assert one.keys() == other.keys()
    assert any((one[key] != other[key]).any() for key in one)


def test_teacher_gets_images_as_it_was_trained_on(taught) -> None:
    source = taught / "teacher" / "iter_6"
    config = source / "config.yml"
    halved = "type: Normalize\n    mean:\n    - 0.25"
    config.write_text(config.read_text().replace("type: Normalize", halved))
    teacher = Teacher(str(source))
    images = paddle.randint(0, 256, [1, 3, 64, 64]).astype("uint8")
    with paddle.no_grad():
        expected = teacher.network((images.astype("float32") / 255 - 0.25) / 0.5)
    np.testing.assert_allclose(teacher(images).numpy(), expected.numpy(), atol=1e-4)


def test_teacher_may_be_a_config_that_names_its_weights(taught) -> None:
    folder = taught / "teacher" / "iter_6"
    (folder / "model.pdparams").rename(taught / "weights.pdparams")
    path = taught / "teacher.yml"
    shutil.copy(folder / "config.yml", path)
    with pytest.raises(UserError, match=r"distill.teacher: .*no model.pretrained"):
        Teacher(str(path))
    text = path.read_text().replace("  type: SegFormer", "  pretrained: WEIGHTS\n  type: SegFormer")
    path.write_text(text.replace("WEIGHTS", str(taught / "weights.pdparams")))
    assert Teacher(str(path)).network.backbone.feat_channels == [16, 16, 40, 64]
    with pytest.raises(UserError, match=r"distill.teacher: .*says how images are prepared"):
        Teacher(str(taught / "weights.pdparams"))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{}", "no key 'distill.teacher'"),
        ("{teacher: x, feature_coef: -1}", "distill.feature_coef: found -1.0"),
        ("{teacher: x, layers: [[a]]}", "distill.layers: expected pairs"),
        ("{teacher: x, los: 1}", "unknown key 'distill.los'.*Did you mean 'loss'"),
    ],
)
def test_wrong_section_is_refused(folder, section, message) -> None:
    with pytest.raises(UserError, match=message):
        load_config(folder / "tiny.yml", [f"distill={section}"])


def test_key_of_paddleseg_is_the_loss_of_the_teacher(taught, caplog, capsys) -> None:
    loss = "distill_loss={types: [{type: KLLoss}], coef: [3]}"
    config = load_config(taught / "tiny.yml", [loss, teacher_of(taught)])
    assert config.distill.loss == {"types": [{"type": "KLLoss"}], "coef": [3]}
    assert load_config(taught / "tiny.yml", [loss]).distill is None
    assert "without a distill.teacher" in caplog.text
    wrong = "distill_loss={types: [{type: KLLos}], coef: [3]}"
    assert train(taught, "out", "--opts", wrong, teacher_of(taught)) == 1
    assert "unknown distill_loss type 'KLLos'. Did you mean 'KLLoss'" in capsys.readouterr().err


def test_features_are_refused_in_static_training(taught, capsys) -> None:
    flags = ("--to_static_training", "--opts", teacher_of(taught), FEATURES)
    assert train(taught, "out", *flags) == 1
    assert "distill.feature_coef: found with to_static_training" in capsys.readouterr().err
