"""What these models do on a GPU: agreement with the CPU, speed and memory; a table and JSON.

    python tools/gpu_check.py --json output/gpu_check.json

Needs a Paddle with a GPU and this package, no data and no weights. Each part is a process of its
own with a share of `--minutes`; one that fails, crashes or takes longer is a row of the table, and
the next one runs. Exit status 1 if a row failed. `--device cpu` tries what runs without a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_segformer.cli.common import set_device
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder, write_text

if TYPE_CHECKING:
    from paddle import Tensor, nn

OK, FAILED, NOT_POSSIBLE = "ok", "FAILED", "not possible"
NUM_CLASSES = 19
PRECISIONS = (("fp32", "O1"), ("fp16", "O1"), ("fp16", "O2"), ("bf16", "O1"), ("bf16", "O2"))
# largest difference allowed, of the standard deviation; GPUs may compute float32 in TF32
TOLERANCES = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.4}
TRAINING_STEPS = 8
TIMED_S = 0.7


@dataclass(frozen=True)
class Row:
    """What came of one case."""

    part: str
    case: str
    status: str
    values: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """What the parts run on."""

    device: str
    variants: list[str]
    sides: list[int]
    batch: int

    @property
    def is_gpu(self) -> bool:
        """Tell whether the device is a GPU."""
        return self.device.startswith("gpu")


Cases = Iterator[tuple[str, Callable[[], dict[str, float]]]]  # name, and what measures it


def precision(setting: Setting) -> Cases:
    """Logits in dygraph, against the CPU's in float32."""
    import paddle

    side = setting.sides[0]
    paddle.set_device("cpu")
    reference = _model(setting.variants[0])
    x = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    with paddle.no_grad():
        expected = reference(paddle.to_tensor(x)).numpy()
    paddle.set_device(setting.device)
    model = _model(setting.variants[0], reference)

    def compare(name: str, level: str) -> dict[str, float]:
        with _autocast(name, level), paddle.no_grad():
            found = model(paddle.to_tensor(x)).astype("float32").numpy()
        return _compared(found, expected, TOLERANCES[name])

    for name, level in PRECISIONS:
        yield f"{name} {level}", partial(compare, name, level)


def attention(setting: Setting) -> Cases:
    """Paddle's scaled_dot_product_attention, against the plain form in float32."""
    import paddle
    import paddle.nn.functional as F

    from paddleseg_segformer.models.attention import attention_weights

    queries = (setting.sides[0] // 4) ** 2
    rng = np.random.default_rng(0)
    q, k, v = (
        paddle.to_tensor(rng.standard_normal((setting.batch, length, 1, 32), np.float32))
        for length in (queries, max(queries // 64, 1), max(queries // 64, 1))
    )

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weighted = paddle.matmul(attention_weights(q, k), v.transpose([0, 2, 1, 3]))
        return weighted.transpose([0, 2, 1, 3])

    def compare(dtype: str) -> dict[str, float]:
        name = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
        inputs = [item.astype(dtype) for item in (q, k, v)]
        with paddle.no_grad():
            fused = partial(F.scaled_dot_product_attention, *inputs)
            found = fused().astype("float32").numpy()
            compared = _compared(found, plain(q, k, v).numpy(), TOLERANCES[name])
            fused_ms, plain_ms = (
                1e3 * _seconds(setting, call) for call in (fused, partial(plain, *inputs))
            )
        return compared | {"ms": fused_ms, "plain_ms": plain_ms}

    for dtype in ("float32", "float16", "bfloat16"):
        yield dtype, partial(compare, dtype)


def to_static(setting: Setting) -> Cases:
    """A model compiled by `to_static`, against itself in dygraph."""
    import paddle

    model = _model(setting.variants[0])
    side = setting.sides[0]
    x = paddle.randn([setting.batch, 3, side, side])
    with paddle.no_grad():
        expected = model(x).astype("float32").numpy()
    static = paddle.jit.to_static(_model(setting.variants[0], model), full_graph=True)

    def compare(name: str, level: str) -> dict[str, float]:
        with _autocast(name, level), paddle.no_grad():
            found = static(x).astype("float32").numpy()
            rates = [
                setting.batch / _seconds(setting, partial(network, x))
                for network in (static, model)
            ]
        compared = _compared(found, expected, TOLERANCES[name])
        return compared | {"images_per_s": rates[0], "dygraph_images_per_s": rates[1]}

    for name, level in PRECISIONS:
        yield f"{name} {level}", partial(compare, name, level)


def channels_last(setting: Setting) -> Cases:
    """1x1 and depthwise convolutions with channels last, against channels first."""
    import paddle
    import paddle.nn.functional as F

    side = setting.sides[0] // 4
    x = paddle.randn([setting.batch, 256, side, side])
    weights = {"1x1": paddle.randn([256, 256, 1, 1]), "depthwise": paddle.randn([256, 1, 3, 3])}

    def compare(kind: str, dtype: str) -> dict[str, float]:
        weight = weights[kind].astype(dtype)
        groups, padding = (1, 0) if kind == "1x1" else (256, 1)
        first = x.astype(dtype)
        last = first.transpose([0, 2, 3, 1])
        options: dict[str, Any] = {"weight": weight, "groups": groups, "padding": padding}
        with paddle.no_grad():
            calls = [
                partial(F.conv2d, maps, data_format=layout, **options)
                for maps, layout in ((last, "NHWC"), (first, "NCHW"))
            ]
            found, expected = (call().astype("float32").numpy() for call in calls)
            compared = _compared(found.transpose(0, 3, 1, 2), expected, TOLERANCES["fp16"])
            last_ms, first_ms = (1e3 * _seconds(setting, call) for call in calls)
        return compared | {"ms": last_ms, "channels_first_ms": first_ms}

    for kind in weights:
        for dtype in ("float32", "float16"):
            yield f"{kind} {dtype}", partial(compare, kind, dtype)


def training(setting: Setting) -> Cases:
    """Steps of AdamW on one batch: the loss stays finite and falls."""
    import paddle

    from paddleseg_segformer.inference.memory_plan import PeakMemory

    side = setting.sides[0]
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.standard_normal((setting.batch, 3, side, side), np.float32))
    labels = paddle.to_tensor(
        np.tile(np.arange(side) * NUM_CLASSES // side, (setting.batch, side, 1))
    )

    def steps(name: str, level: str) -> dict[str, float]:
        memory = PeakMemory()
        step = _trained(setting, name, level)
        losses = [step(x, labels) for _ in range(TRAINING_STEPS)]
        if not np.isfinite(losses).all() or losses[-1] >= losses[0]:
            raise RuntimeError(f"the losses are {', '.join(f'{loss:.3f}' for loss in losses)}")
        rate = setting.batch / _seconds(setting, partial(step, x, labels))
        values = {"first_loss": losses[0], "last_loss": losses[-1], "images_per_s": rate}
        return values | {"peak_mib": memory.mib}

    for name, level in PRECISIONS:
        yield f"{name} {level}", partial(steps, name, level)


def gradient_scaling(setting: Setting) -> Cases:
    """A step in fp16 whose gradients overflow changes no weight and lowers the scale."""
    import paddle

    def overflow() -> dict[str, float]:
        from paddleseg_segformer.training.trainer import Precision

        scaled = Precision("fp16")
        layer = paddle.nn.Linear(4, 4)
        optimizer = paddle.optimizer.AdamW(0.1, parameters=layer.parameters())
        before, scale = layer.weight.numpy(), scaled.scaler.state_dict()["scale"].item()
        with scaled.autocast():
            loss = layer(paddle.ones([2, 4])).astype("float32").sum() * float("inf")
        scaled.backward(loss)
        scaled.step(optimizer)
        lowered = scaled.scaler.state_dict()["scale"].item()
        if not np.array_equal(layer.weight.numpy(), before):
            raise RuntimeError("the weights changed")
        if lowered >= scale:
            raise RuntimeError(f"the scale went from {scale:g} to {lowered:g}")
        return {"scale": scale, "lowered": lowered}

    yield "overflow", overflow


def sync_batch_norm(setting: Setting) -> Cases:
    """Paddle's SyncBatchNorm in one process, against BatchNorm2D: output and gradient."""
    import paddle

    x = np.random.default_rng(0).standard_normal((4, 8, 16, 16), np.float32)

    def passed(norm: nn.Layer) -> np.ndarray:
        inputs = paddle.to_tensor(x, stop_gradient=False)
        norm.train()
        output = norm(inputs)
        (output**3).sum().backward()
        return np.stack([output.numpy(), inputs.grad.numpy()])

    def compare() -> dict[str, float]:
        return _compared(passed(paddle.nn.SyncBatchNorm(8)), passed(paddle.nn.BatchNorm2D(8)), 1e-3)

    yield "one process", compare


def inference(setting: Setting) -> Cases:
    """An export in Paddle Inference, against dygraph."""
    import paddle

    from paddleseg_segformer.export import export_model
    from paddleseg_segformer.runtimes.engine_network import load_network
    from paddleseg_segformer.runtimes.engines import EngineOptions

    model = _model(setting.variants[0])
    side = setting.sides[0]
    x = np.random.default_rng(0).standard_normal((setting.batch, 3, side, side), np.float32)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(x)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder) / "export", is_verified=False)

        def compare(name: str, use_trt: bool) -> dict[str, float]:
            options = EngineOptions("paddle", setting.device, precision=name, use_trt=use_trt)
            network = load_network(Path(folder) / "export", options)
            compared = _compared(np.asarray(network(x)), expected, TOLERANCES[name])
            rate = setting.batch / _seconds(setting, partial(network, x))
            return compared | {"images_per_s": rate}

        for engine, use_trt in (("Paddle Inference", False), ("TensorRT", True)):
            for name in ("fp32", "fp16"):
                yield f"{engine} {name}", partial(compare, name, use_trt)


def speed(setting: Setting) -> Cases:
    """Images per second and memory of each model, without gradients."""
    import paddle

    from paddleseg_segformer.inference.memory_plan import PeakMemory

    def measure(variant: str, side: int, name: str, level: str) -> dict[str, float]:
        memory = PeakMemory()
        model = _model(variant)
        x = paddle.randn([setting.batch, 3, side, side])
        with _autocast(name, level), paddle.no_grad():
            rate = setting.batch / _seconds(setting, partial(model, x))
        return {"images_per_s": rate, "peak_mib": memory.mib}

    for side in setting.sides:
        for variant in setting.variants:
            for name in ("fp32", "fp16", "bf16"):
                case = f"{variant} {side}x{side} {name}"
                yield case, partial(measure, variant, side, name, "O1")


PARTS: dict[
    str, tuple[Callable[[Setting], Cases], float]
] = {  # in the order in which they run, and their share of time
    "precision": (precision, 0.1),
    "attention": (attention, 0.07),
    "to_static": (to_static, 0.12),
    "channels_last": (channels_last, 0.05),
    "training": (training, 0.13),
    "gradient_scaling": (gradient_scaling, 0.05),
    "sync_batch_norm": (sync_batch_norm, 0.05),
    "inference": (inference, 0.18),
    "speed": (speed, 0.25),
}


def _model(variant: str, source: nn.Layer | None = None) -> nn.Layer:
    """Return a SegFormer in evaluation mode, with the weights of `source` if there is one."""
    import paddle

    from paddleseg_segformer.models import BACKBONES, SegFormer

    paddle.seed(0)
    width = 256 if variant in ("B0", "B1") else 768
    model = SegFormer(NUM_CLASSES, BACKBONES[f"MixVisionTransformer_{variant}"](), width)
    if source is not None:
        model.set_state_dict({name: item.numpy() for name, item in source.state_dict().items()})
    model.eval()
    return model


def _trained(setting: Setting, name: str, level: str) -> Callable[[Tensor, Tensor], float]:
    """Return a step of a new model as the training loop makes it; the step returns the loss."""
    import paddle
    import paddle.nn.functional as F

    from paddleseg_segformer.models.layers import upsample_to_input
    from paddleseg_segformer.training.trainer import Precision

    scaled = Precision(name, level)
    model = _model(setting.variants[0])
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())

    def step(x: Tensor, labels: Tensor) -> float:
        with scaled.autocast():
            logits = model(x)
        logits = upsample_to_input(logits.astype("float32"), labels.shape[1:])
        loss = F.cross_entropy(logits, labels, axis=1)
        scaled.backward(loss)
        scaled.step(optimizer)
        return float(loss.numpy().reshape(-1)[0])

    return step


def _autocast(name: str, level: str) -> Any:
    from paddleseg_segformer.training.trainer import Precision

    return Precision(name, level).autocast()


def _compared(found: np.ndarray, expected: np.ndarray, tolerance: float) -> dict[str, float]:
    """Return the largest difference, in standard deviations of what was expected.

    Raises:
        RuntimeError: it is above `tolerance`, or not a number.
    """
    difference = float(np.abs(found - expected).max() / expected.std())
    if not difference <= tolerance:
        raise RuntimeError(f"differs by {difference:.2g} standard deviations, above {tolerance:g}")
    return {"max_difference": difference}


def _seconds(setting: Setting, call: Callable[[], object]) -> float:
    """Return the median seconds of a call, after a warm-up."""
    import paddle

    seconds: list[float] = []
    call()
    while sum(seconds) < TIMED_S or len(seconds) < 3:
        _wait(setting, paddle)
        start = time.perf_counter()
        call()
        _wait(setting, paddle)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _wait(setting: Setting, paddle: Any) -> None:
    if setting.is_gpu:
        paddle.device.cuda.synchronize()


def run_part(name: str, setting: Setting) -> Iterator[Row]:
    """Yield the rows of one part, in this process."""
    import paddle

    paddle.set_device(setting.device)
    for case, measure in PARTS[name][0](setting):
        try:
            yield Row(name, case, OK, measure())
        except UserError as error:  # the package says that something is not for this device
            yield Row(name, case, NOT_POSSIBLE, note=str(error))
        except Exception as error:  # whatever Paddle raises: a row, not an end
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            note = f"{type(error).__name__}: {lines[-1] if lines else ''}"
            is_missing = not setting.is_gpu and isinstance(
                error, (RuntimeError, NotImplementedError)
            )
            is_missing &= "not support" in str(error) or "not registered" in str(error)
            yield Row(name, case, NOT_POSSIBLE if is_missing else FAILED, note=note)


def collect(name: str, setting: Setting, budget_s: float) -> list[Row]:
    """Run one part in a process of its own, for no longer than its budget."""
    flags = ["--part", name, "--device", setting.device, "--batch", str(setting.batch)]
    flags += ["--variants", *setting.variants, "--sides", *map(str, setting.sides)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, __file__, *flags]
        try:
            code = subprocess.run(
                command, stdout=output, stderr=errors, timeout=budget_s
            ).returncode
            problem = f"ended with exit status {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"stopped after its {budget_s:.0f} s"
        for file in (output, errors):
            file.seek(0)
        rows = [Row(**json.loads(line)) for line in output if line.startswith('{"part"')]
        last = [line.strip() for line in errors if line.strip()][-1:]
    if problem:
        rows.append(Row(name, "rest", FAILED, note=": ".join([problem, *last])))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| part | case | status | values |", "|-|-|-|-|"]
    for row in rows:
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.values.items())
        lines.append(f"| {row.part} | {row.case} | {row.status} | {values or row.note} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="gpu:0", help="gpu:0, gpu:1 or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--variants", nargs="+", default=["B0", "B1", "B2", "B3", "B4", "B5"])
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024], help="of the images")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the rows into this file")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    setting = Setting(args.device, args.variants, args.sides, args.batch)
    if args.part:
        for row in run_part(args.part, setting):
            print(json.dumps(asdict(row)), flush=True)
        return 0
    try:
        set_device(setting.device)
        check_folder(args.json.parent if args.json else ".")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    end, rows = time.monotonic() + 60 * args.minutes, []
    for index, name in enumerate(args.parts):
        shares = [PARTS[other][1] for other in args.parts[index:]]
        budget_s = max((end - time.monotonic()) * shares[0] / sum(shares), 1.0)
        found = collect(name, setting, budget_s)
        print("\n".join(table(found).splitlines()[2 if index else 0 :]), flush=True)
        rows += found
    if args.json:
        content = {"machine": _machine(setting), "rows": [asdict(row) for row in rows]}
        write_text(args.json, json.dumps(content, indent=1) + "\n")
    counts = {status: [row.status for row in rows].count(status) for status in (OK, NOT_POSSIBLE)}
    failed = len(rows) - sum(counts.values())
    print(f"\n{counts[OK]} ok, {counts[NOT_POSSIBLE]} not possible, {failed} failed")
    return 1 if failed else 0


def _machine(setting: Setting) -> dict[str, Any]:
    """Return what the figures belong to."""
    import paddle

    machine = {"paddle": paddle.__version__, "device": setting.device, "batch": setting.batch}
    if setting.is_gpu:
        cuda = paddle.device.cuda
        machine |= {"gpu": cuda.get_device_name(), "cuda": paddle.version.cuda()}
    return machine


if __name__ == "__main__":
    sys.exit(main())
