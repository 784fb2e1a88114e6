"""Exports of PaddleSeg and PaddleX: their `deploy.yaml` and `inference.yml` in our terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean, one_line

DENSE_TENSOR = 3  # number of a field of Paddle's descriptions
SECTION = "Deploy"  # of both files
PADDLEX_FILE = "inference.yml"
KEYS = ("model", "params", "transforms", "input_shape", "output_op", "output_dtype")
# those that do the same here by the same arguments
TRANSFORMS = ("Resize", "ResizeByShort", "ResizeByLong", "LimitLong", "Padding", "Normalize")
PADDLEX_RESIZE = {"target_size": -1, "keep_ratio": True, "size_divisor": 32, "interp": "LINEAR"}
OUTPUT_DTYPES = {"none": "float32", "argmax": "int32", "softmax": "float32"}


def read_section(path: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Deploy` says, as keys of our `deploy.yaml` but for artefacts and classes.

    Args:
        path: The file; in PaddleX's `inference.yml` a `Resize` has other defaults.
        section: Its `Deploy`.

    Raises:
        UserError: an unknown key, transform or output, or files that are missing.
    """
    if unknown := sorted(set(section) - set(KEYS)):
        raise UserError(f"{SECTION}: unknown key '{unknown[0]}'.{did_you_mean(unknown[0], KEYS)}")
    op = section.get("output_op")
    if op not in OUTPUT_DTYPES:
        raise UserError(
            f"{SECTION}.output_op: found {op!r}, expected {' or '.join(OUTPUT_DTYPES)}. Export it "
            "again with a newer PaddleSeg."
        )
    program, params = (_file(path.parent, section.get(key)) for key in ("model", "params"))
    return {
        "files": (program, params),
        "transforms": _transforms(path, section.get("transforms") or []),
        "shape": section.get("input_shape") or [-1, 3, -1, -1],
        "output": {"op": op, "dtype": section.get("output_dtype") or OUTPUT_DTYPES[op]},
        "num_classes": num_classes_of(program, op),
    }


def _file(folder: Path, name: Any) -> Path:
    """Return a file of the model; PaddleX names a program by its old suffix, whatever it has."""
    path = folder / Path(str(name)).name
    if path.suffix == ".pdmodel" and not path.is_file():
        path = path.with_suffix(".json")
    if not path.is_file():
        raise UserError(f"{SECTION}: names {name}, but there is no such file beside it.")
    return path


def _transforms(path: Path, sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the transforms with PaddleX's defaults written out.

    Raises:
        UserError: one that has no equal here.
    """
    found = []
    for section in sections:
        name = section.get("type")
        if name not in TRANSFORMS:
            raise UserError(
                f"{SECTION}.transforms: '{name}' has no equal here, expected "
                f"{', '.join(TRANSFORMS)}.{did_you_mean(str(name), TRANSFORMS)}"
            )
        if path.name == PADDLEX_FILE and name == "Resize":
            section = {**PADDLEX_RESIZE, **section}
            side = section["target_size"]
            if side in (-1, [-1, -1]):  # as it is
                continue
            section["target_size"] = [side, side] if isinstance(side, int) else side
        found.append(section)
    return found


def num_classes_of(program: Path, output_op: str) -> int:
    """Return how many classes a program tells apart, as neither file says.

    Raises:
        UserError: the program does not say it either.
    """
    is_json = program.suffix == ".json"
    try:
        shape = _json_shape(program, output_op) if is_json else _pdmodel_shape(program, output_op)
        num_classes = int(shape[1])
    except UserError:
        raise
    except Exception as error:  # of any type: of nested text, and Paddle's own
        reason = one_line(error)[-200:]
        raise UserError(
            f"{program}: not a program of a segmentation model ({type(error).__name__}: {reason})."
        ) from None
    if num_classes < 1:
        raise UserError(f"{program}: does not say how many classes there are. Export it again.")
    return num_classes


def _json_shape(program: Path, output_op: str) -> list[int]:
    """Return the shape (N, K, H, W) of the output, or of what argmax is taken of."""
    content = json.loads(program.read_text(encoding="utf-8"))
    operators = content["program"]["regions"][0]["blocks"][0]["ops"]
    name = "argmax" if output_op == "argmax" else "fetch"
    last = [item for item in operators if item["#"].partition(".")[2] == name][-1]
    shapes = {
        result["%"]: result["TT"]["D"][1]
        for item in operators
        if isinstance(item["O"], list)  # of a parameter it is none
        for result in item["O"]
        if result.get("TT", {}).get("#") == "0.t_dtensor"
    }
    found: list[int] = shapes[last["I"][0]["%"]]
    return found


def _pdmodel_shape(program: Path, output_op: str) -> list[int]:
    """Return the same of the form before Paddle 3."""
    with explained():  # Paddle's own reader ends the process where there is no block
        from paddle.base.proto.framework_pb2 import ProgramDesc, VarType

    block = ProgramDesc.FromString(program.read_bytes()).blocks[0]
    name = "arg_max" if output_op == "argmax" else "fetch"
    last = [item for item in block.ops if item.type == name][-1]
    [operand] = next(item.arguments for item in last.inputs if item.parameter == "X")
    kind = next(item.type for item in block.vars if item.name == operand)
    tensor = VarType.DESCRIPTOR.fields_by_number[DENSE_TENSOR].name  # it was lod_tensor
    return list(getattr(kind, tensor).tensor.dims)
