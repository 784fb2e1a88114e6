"""Write the generated pages of docs/: the references of configs, commands and names, and the zoo.

    python tools/make_reference.py            # write them
    python tools/make_reference.py --check    # status 1 if one is out of date

They are made of what the code says of itself: dataclass fields and their comments, signatures,
docstrings, the parsers of the command lines, the published models that it knows and their costs.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib.util
import inspect
import io
import itertools
import json
import os
import re
import runpy
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NOTE = "<!-- Written by tools/make_reference.py: change the code or that file, not this page. -->"
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Source):", re.MULTILINE)
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \w+)*): (.*)$")
REQUIRED = "required"
VALUES = {"cpu", "gpu", "none", "paddle", "px"}  # words that are values keep their small letters


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    stale = []
    for name, text in pages().items():
        path = ROOT / "docs" / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not args.check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'out of date' if args.check else 'written'}: {', '.join(stale)}")
    return int(args.check and bool(stale))


def pages() -> dict[str, str]:
    """Return the text of each generated page by its name in docs/."""
    return {
        "config-reference.md": config_page(),
        "command-reference.md": command_page(),
        "python-reference.md": python_page(),
        "zoo.md": zoo_page(),
    }


# --- configs


def config_page() -> str:
    """Return the reference of every key of a config."""
    from paddleseg_segformer import load_config

    schema = typing.get_type_hints(load_config)["return"]
    test_schema = typing.get_type_hints(schema)["test_config"]
    optional = [
        (name, typing.get_args(typing.get_type_hints(schema)[name])[0])
        for name in ("distill", "qat")
    ]
    parts = [
        NOTE,
        "# Config reference",
        "Every key that a config may have. How configs inherit and are overridden: "
        "[Configuration files](configuration.md). A key or type that is not listed stops the run "
        "with a suggestion.",
        "Types are YAML's. *Section* is a mapping with a `type`, and the keys of that type below. "
        "Sizes in configs are [width, height] in pixels, as in PaddleSeg's files.",
        "## Top level",
        field_table(schema),
        "## test_config",
        prose(test_schema),
        field_table(test_schema),
    ]
    for name, section in optional:
        parts += [f"## {name}", prose(section), field_table(section)]
    for title, text, tables in component_kinds():
        parts += [f"## {title}", text, *component_entries(tables)]
    return "\n\n".join(parts) + "\n"


def component_kinds() -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Yield heading, introduction and table of each kind of component."""
    from paddleseg_segformer.data import DATASETS, TRANSFORMS
    from paddleseg_segformer.losses import DISTILL_LOSSES, LOSSES
    from paddleseg_segformer.models import BACKBONES, MODELS

    optimizer = importlib.import_module("paddleseg_segformer.optimizers")
    yield (
        "model",
        "Besides its own keys, a model and its `backbone` take `pretrained`: a path or URL of "
        "[weights](weight-conversion.md) to start training from.",
        MODELS,
    )
    yield "model.backbone", "Variants differ from the first entry in the defaults named.", BACKBONES
    yield (
        "train_dataset, val_dataset",
        "`transforms` is a list of the sections below. See [Your own data](own-data.md).",
        DATASETS,
    )
    yield (
        "transforms",
        "Applied in order. Where PaddleSeg is installed, its transforms can be named too.",
        TRANSFORMS,
    )
    yield (
        "loss",
        "`types` is a list of one section, `coef` a list of one factor; combine losses with "
        "`MixedLoss`. Where PaddleSeg is installed, its losses can be named too.",
        LOSSES,
    )
    yield (
        "distill.loss",
        "As `loss`; it is called with the teacher's logits too. PaddleSeg's key `distill_loss`, "
        "beside `distill`, is the same.",
        DISTILL_LOSSES,
    )
    yield (
        "optimizer",
        "Where PaddleSeg is installed, its optimizers can be named too. " + groups_text(optimizer),
        optimizer.OPTIMIZERS,
    )
    yield "lr_scheduler", argument(optimizer.build_lr_schedule, "section"), {}


def groups_text(optimizer: types.ModuleType) -> str:
    """Return what `custom_cfg` is: a list of rules for groups of parameters."""
    rules = arguments_of(optimizer.parameter_groups)["rules"]
    summary = first_paragraph(optimizer.parameter_groups)
    return f"`custom_cfg` is a list of rules, {rules} {summary}"


def component_entries(table: Mapping[str, Any]) -> Iterable[str]:
    """Yield heading, text and keys of each component, variants of one class in one table."""
    bases = {name: item for name, item in table.items() if not is_variant(item, table)}
    for name, item in bases.items():
        yield f"### {name}"
        yield prose(item)
        yield key_table(item)
        rows = [
            (
                f"`{other}`",
                ", ".join(f"`{k}: {yaml(v)}`" for k, v in variant.keywords.items()) or "none",
            )
            for other, variant in table.items()
            if is_variant(variant, table) and variant.func is item
        ]
        if rows:
            yield markdown_table(("Variant", "Defaults that differ"), rows)


def is_variant(item: Any, table: Mapping[str, Any]) -> bool:
    """Tell whether a component is another one of the table with other defaults."""
    return isinstance(item, functools.partial) and item.func in table.values()


def field_table(cls: type) -> str:
    """Return the table of a dataclass's fields; their comments say what they mean."""
    hints, comments = typing.get_type_hints(cls), field_comments(cls)
    rows = []
    for item in dataclasses.fields(cls):
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
            default = {} if dataclasses.is_dataclass(default) else default
        shown = REQUIRED if default is dataclasses.MISSING else f"`{yaml(default)}`"
        meaning = sentence(comments[item.name])
        rows.append((f"`{item.name}`", kind(hints[item.name]), shown, meaning))
    return markdown_table(("Key", "Type", "Default", "Meaning"), rows)


def field_comments(cls: type) -> dict[str, str]:
    """Return the comments on the lines of each field of a dataclass."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    return {
        node.target.id: " ".join(
            text for line, text in comments.items() if node.lineno <= line <= node.end_lineno
        )
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.end_lineno is not None
    }


def key_table(component: Callable[..., Any]) -> str:
    """Return the table of a component's constructor arguments."""
    described, hints = arguments_of(component), hints_of(component)
    rows = []
    for name, parameter in inspect.signature(component).parameters.items():
        default = parameter.default
        shown = REQUIRED if default is parameter.empty else f"`{yaml(default)}`"
        meaning = sentence(described.get(name, ""))
        rows.append((f"`{name}`", kind(hints.get(name, Any)), shown, meaning))
    return markdown_table(("Key", "Type", "Default", "Meaning"), rows) if rows else "No keys."


def hints_of(component: Any) -> dict[str, Any]:
    """Return the types of a component's arguments."""
    function = component.func if isinstance(component, functools.partial) else component
    return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)


def kind(hint: Any) -> str:
    """Return a type in YAML's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind(item) for item in arguments if item is not types.NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin in (list, tuple) or origin is getattr(typing.Sequence, "__origin__", None):
        inner = kind(arguments[0])
        plural = "s" if inner == "section" else ""
        return f"list of {inner.replace('list', 'lists', 1)}{plural}"
    if hint in (int, float, str, bool):
        return str(hint.__name__)
    return "any" if hint is Any else "section"


def yaml(value: Any) -> str:
    """Return a value as a config would write it."""
    if isinstance(value, float) and ("e" in repr(value) or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.12e}".partition("e")
        return f"{float(mantissa)}e{int(exponent)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return value or '""' if value.strip() else json.dumps(value)
    return json.dumps(value)


# --- commands


class _ParserFound(Exception):
    """Carries the parser that a program would parse its command line with."""


class _Cores(int):
    """A number of cores that is none: pages must not depend on the machine."""

    def __str__(self) -> str:
        return "one per core"


def command_page() -> str:
    """Return the reference of every job's flags."""
    parts = [
        NOTE,
        "# Command reference",
        "Each job is a script of `tools/`. Installed, `paddleseg_segformer JOB` and "
        "`python -m paddleseg_segformer JOB` are the same, but for `benchmark`, `chaos` and "
        "`compare_engines`, which run from a clone. All take `--help`. Exit status: 0; 1 with one "
        "line on standard error, or one for each mistake of a config; 2 for wrong flags.",
    ]
    for job, (summary, parser) in jobs().items():
        parts += [f"## {job}", f"`python tools/{job}.py`: {summary}.", flag_table(parser)]
        if job == "check_dataset":
            parts.append(findings_table())
    return "\n\n".join(parts) + "\n"


def findings_table() -> str:
    """Return the table of what an audit finds; see docs/own-data.md."""
    from paddleseg_segformer.data.findings import KINDS

    rows = [(f"`{name}`", kind.severity, kind.sentence) for name, kind in KINDS.items()]
    return markdown_table(("Finding", "Severity", "Meaning and remedy"), rows)


def jobs() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return summary and parser of each script of tools/, in the order of the main help."""
    found = {}
    order: list[str] = []
    for path in sorted((ROOT / "tools").glob("*.py")):
        if path.resolve() == Path(__file__).resolve():
            continue
        parser: argparse.ArgumentParser | None = parser_of(path)
        assert parser is not None
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                order = [choice.dest for choice in action._choices_actions]
                parser = action.choices.get(path.stem)  # None for a job's former name
        if parser is not None:
            found[path.stem] = ((parser.description or "").rstrip("."), parser)
    return {name: found[name] for name in [*order, *found] if name in found}


def parser_of(script: Path) -> argparse.ArgumentParser:
    """Return the parser that a script makes for its command line."""

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _ParserFound(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(sys, "argv", [str(script)]),
        mock.patch.object(os, "cpu_count", lambda: _Cores(1)),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except _ParserFound as found:
            (parser,) = found.args
            return parser
        except SystemExit:  # it ran to its end, which must not pass for the end of this one
            pass
    raise RuntimeError(f"{script}: makes no parser")


def flag_table(parser: argparse.ArgumentParser) -> str:
    """Return the table of a parser's flags."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = action.option_strings or [str(action.metavar or action.dest)]
        text = (action.help or "") % vars(action)
        help_text = sentence(re.sub(r" \(default: .*\)$", "", text.strip()))  # of Python 3.10
        rows.append(
            (
                ", ".join(f"`{name}`" for name in names),
                value_of(action),
                *default_of(action),
                help_text,
            )
        )
    return markdown_table(("Flag", "Value", "Default", "Meaning"), rows) if rows else "No flags."


def value_of(action: argparse.Action) -> str:
    """Return what values a flag takes."""
    if action.nargs == 0 or not action.option_strings:
        return ""
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    name = getattr(action.type, "__name__", "text")
    shown = action.metavar or {"str": "text", "float": "number", "int": "integer"}.get(name, name)
    text = " ".join(shown) if isinstance(shown, tuple) else str(shown)
    return text + (" ..." if action.nargs in ("+", "*") else "")


def default_of(action: argparse.Action) -> tuple[str]:
    """Return a flag's default, alone in a tuple; nothing where it says nothing."""
    default = action.default
    if action.required and action.option_strings:
        return (REQUIRED,)
    if default is None or default is False or default == [] or default is argparse.SUPPRESS:
        return ("",)
    if default == sys.executable:
        return ("this one",)
    if isinstance(default, (list, tuple)):
        words = ["x".join(map(str, i)) if isinstance(i, tuple) else str(i) for i in default]
        return (f"`{' '.join(words)}`",)
    shown = "on" if default is True else default
    return (str(shown) if isinstance(default, (_Cores, bool)) else f"`{shown}`",)


# --- Python


def python_page() -> str:
    """Return the reference of the public names."""
    import paddleseg_segformer

    predictor = paddleseg_segformer.Predictor
    home = sys.modules[predictor.__module__]
    prediction, settings = home.Prediction, home.InferenceSettings
    parts = [
        NOTE,
        "# Python reference",
        "The public names of `paddleseg_segformer`. They are loaded when first used; importing the "
        "package imports neither Paddle nor PaddleSeg.",
    ]
    names = {name: getattr(paddleseg_segformer, name) for name in paddleseg_segformer.__all__}
    more = {prediction.__name__: prediction, settings.__name__: settings}
    order = sorted(names, key=lambda name: (name not in ("Predictor", "load_model"), name))
    for name in [*order[:1], *more, *order[1:]]:
        item = names.get(name) or more[name]
        parts += [f"## {name}", *entry(name, item)]
        if inspect.isclass(item) and item in (predictor, prediction):
            for member, value in vars(item).items():
                if not member.startswith("_") or member == "__call__":
                    parts += [f"### {name}.{member}", *entry(f"{name}.{member}", value)]
    return "\n\n".join(parts) + "\n"


def entry(name: str, item: Any) -> Iterable[str]:
    """Yield signature, text and arguments of one name."""
    item = getattr(item, "__func__", item)
    is_called = not isinstance(item, (property, functools.cached_property))
    if not is_called or (inspect.isclass(item) and issubclass(item, Exception)):
        yield prose(item)
        return
    yield f"```python\n{signature(name.removesuffix('.__call__'), item)}\n```"
    yield prose(item)
    described = arguments_of(item)
    if dataclasses.is_dataclass(item):
        assert isinstance(item, type)
        described |= {key: text for key, text in field_comments(item).items() if text}
    if described:
        yield markdown_table(
            ("Argument", "Meaning"), [(f"`{key}`", sentence(v)) for key, v in described.items()]
        )


def signature(name: str, item: Any) -> str:
    """Return a call as the source writes it, an argument a line where it is long."""
    shown = []
    for parameter in inspect.signature(item).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        text = str(parameter.replace(annotation=parameter.empty))
        if parameter.annotation is not parameter.empty:
            head, equals, default = text.partition("=")
            text = f"{head}: {parameter.annotation}" + (f" = {default}" if equals else "")
        shown.append(text)
    call = f"{name}({', '.join(shown)})"
    if len(call) <= 90:
        return call
    return f"{name}(\n" + "".join(f"    {text},\n" for text in shown) + ")"


# --- zoo


def zoo_page() -> str:
    """Return the page of published weights, and of what their models cost."""
    zoo = importlib.import_module("paddleseg_segformer.zoo")
    rows = [
        (
            "<br>".join(f"`{name}`" for name in (model.name, *model.aliases)),
            "encoder" if model.is_backbone else "model",
            model.trained_on,
            str(model.megabytes),
            model.licence,
            f"[{'Hugging Face' if model.files else 'PaddleSeg'}]({model.page})",
        )
        for model in zoo.list_models()
    ]
    head = ("Name, other name", "Holds", "Trained on", "MB", "Licence", "Publisher")
    parts = [
        NOTE,
        "# Zoo",
        "## Published weights",
        "What can be named wherever weights are named, such as `--model_path "
        "segformer_b2_cityscapes` or `model.backbone.pretrained=mit_b2`; `tools/list_models.py` "
        "prints it, and says which are on this machine. They are downloaded from their publishers "
        "when they are first used, under the publishers' licences. Sizes are those of the "
        "parameters in float32.",
        markdown_table(head, rows).replace("&lt;br>", "<br>"),
        "Scores of published models: [Recipes](recipes.md).",
        *cost_tables(),
    ]
    return "\n\n".join(parts) + "\n"


def cost_tables() -> Iterable[str]:
    """Yield the tables of parameters, multiply-accumulates and published speeds."""
    costs = importlib.import_module("paddleseg_segformer.analysis.complexity")
    config = importlib.import_module("paddleseg_segformer.config")
    building = importlib.import_module("paddleseg_segformer.config.building")
    yield "## What they cost"
    yield (
        "GMACs are 1e9 multiply-accumulates of convolutions, linears and attention products for "
        "one image, which the paper calls FLOPs: as published → as computed here. The paper's "
        "columns are those of its Tables 1 and 2; it counted Cityscapes with 150 classes, but for "
        "the real-time rows and the last of B5. Images per second are the paper's on a V100, and "
        "those of mmsegmentation's model card, whose head is another and whose Cityscapes models "
        "run by windows (1080 Ti, Titan Xp and V100 on ADE20K, else V100). `tools/complexity.py` "
        "counts any config at any size, and with `--time` times it by the paper's rules; what was "
        "measured here: [Performance](performance.md)."
    )
    sizes: dict[tuple[str, int], list[tuple[str, tuple[int, int]]]] = {
        ("ADE20K, 512x512", 150): [(name, (512, 512)) for name in costs.PARAMETERS_M],
        ("ADE20K, 640x640", 150): [("B5", (640, 640))],
        ("Cityscapes, 1024x2048, 150 classes", 150): [
            (name, (1024, 2048)) for name in costs.PARAMETERS_M
        ],
        ("Cityscapes, 1024x2048", 19): [(name, (1024, 2048)) for name in costs.PARAMETERS_M],
        ("Real time: Cityscapes reduced", 19): [
            ("B0", (768, 1536)),
            ("B0", (640, 1280)),
            ("B0", (512, 1024)),
        ],
    }
    rows = []
    for (data, num_classes), models in sizes.items():
        for name, hw in models:
            model = built_of_zeros(functools.partial(costs.build_published, name, num_classes))
            is_stated_for = num_classes == (19 if "Cityscapes" in data else 150)
            rows.append(
                (
                    f"{data} {hw[0]}x{hw[1]}" if "reduced" in data else data,
                    name,
                    f"{costs.count_parameters(model) / 1e6:.2f}",
                    str(costs.PARAMETERS_M[name]),
                    macs_of(model, hw),
                    stated(costs.GMACS.get((name, hw, num_classes))),
                    stated(costs.PAPER_FPS.get((name, hw)) if is_stated_for else None),
                    stated(costs.MMSEG_FPS.get((name, hw)) if is_stated_for else None),
                )
            )
    yield markdown_table(
        ("Images", "Model", "M params", "Paper", "GMACs", "Paper", "Img/s: paper", "mmseg"), rows
    )
    yield (
        "ImageNet classifiers at 224x224. The paper's Table 7 and Hugging Face's model card state "
        "the costs of other networks than the released ones: with MLP ratios of 8 in the first two "
        "stages of B0 to B4, where the weights have 4."
    )
    networks = importlib.import_module("paddleseg_segformer.models")
    classifiers = []
    for name, (stated_m, gmacs, top1) in costs.CLASSIFIERS.items():
        make = networks.BACKBONES[f"MixVisionTransformer_{name}"]
        model = networks.MixVisionTransformerClassifier(built_of_zeros(make))
        millions = f"{costs.count_parameters(model) / 1e6:.2f}"
        shown = macs_of(model, (224, 224))
        classifiers.append((name, millions, str(stated_m), shown, str(gmacs), str(top1)))
    yield markdown_table(
        ("Model", "M params", "Stated", "GMACs", "Stated", "Top-1, stated, %"), classifiers
    )
    yield "Segmenter, ADE20K at 512x512; its publishers state neither."
    segmenters = []
    for size, head in itertools.product(("small", "base"), ("linear", "mask")):
        name = f"segmenter_vit_{size}_{head}_ade20k_512x512_160k"
        build = functools.partial(building.build_model, config.load_config(name))
        model = built_of_zeros(build)
        millions = f"{costs.count_parameters(model) / 1e6:.2f}"
        segmenters.append((f"`{name}`", millions, macs_of(model, (512, 512))))
    yield markdown_table(("Config", "M params", "GMACs"), segmenters)


def macs_of(model: Any, hw: tuple[int, int]) -> str:
    """Return 1e9 multiply-accumulates as published, and as computed here where that is less."""
    costs = importlib.import_module("paddleseg_segformer.analysis.complexity")
    published, here = (
        f"{costs.count_macs(model, hw, rewritten=rewritten).total() / 1e9:.2f}"
        for rewritten in (False, True)
    )
    return published if here == published else f"{published} → {here}"


def stated(value: float | None) -> str:
    """Return a published figure, or a dash."""
    return "–" if value is None else str(value)


def built_of_zeros(build: Callable[[], Any]) -> Any:
    """Return a network without drawing random weights, which takes ten times as long."""
    from paddle import nn

    init = importlib.import_module("paddleseg_segformer.models.init")
    zeros = nn.initializer.Constant(0.0)
    nn.initializer.set_global_initializer(zeros, zeros)
    try:
        with mock.patch.multiple(
            init, _normal=lambda *_, **__: None, _uniform=lambda *_, **__: None
        ):
            return build()
    finally:
        nn.initializer.set_global_initializer(None)


# --- docstrings and Markdown


def docstring(item: Any) -> str:
    """Return the docstring of a component, of a variant's class where it is one."""
    item = item.func if isinstance(item, functools.partial) else item
    return inspect.cleandoc(item.__doc__ or "")


def first_paragraph(item: Any) -> str:
    """Return a docstring's first paragraph in one line."""
    return " ".join(docstring(item).partition("\n\n")[0].split())


def prose(item: Any) -> str:
    """Return a docstring without its sections, and without pointers to private names."""
    text = SECTION.split(docstring(item))[0]
    text = re.sub(r"[;,] see `_\w+`[^.]*", "", text)
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def arguments_of(item: Any) -> dict[str, str]:
    """Return what a docstring, or those of a class's bases, says of each argument."""
    item = item.func if isinstance(item, functools.partial) else item
    described: dict[str, str] = {}
    for owner in inspect.getmro(item) if inspect.isclass(item) else (item,):
        for name, text in parsed_arguments(docstring(owner)).items():
            described.setdefault(name, text)
    parameters = inspect.signature(item).parameters
    return {name: described[name] for name in parameters if name in described}


def parsed_arguments(text: str) -> dict[str, str]:
    """Return the entries under `Args:`."""
    parts = SECTION.split(text)
    if "Args" not in parts:
        return {}
    described: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(parts[parts.index("Args") + 1].lstrip("\n")).splitlines():
        if match := ENTRY.match(line):
            names = match[1].replace("*", "").split(", ")
            described |= dict.fromkeys(names, match[2])
        elif line.startswith(" "):
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    return described


def argument(item: Any, name: str) -> str:
    """Return what a docstring says of one argument."""
    return sentence(arguments_of(item)[name])


def sentence(text: str) -> str:
    """Return text that starts with a capital, where it starts with a word, and ends with a stop."""
    text = text.rstrip(".;")
    first = re.match(r"([a-z]+)(?:[ ,;:]|$)", text)
    if first and first[1] not in VALUES:
        text = text[0].upper() + text[1:]
    return f"{text}." if text else ""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns that are empty in every row are left out."""
    body = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in body)]
    lines = [[head[i] for i in kept], ["-"] * len(kept), *([row[i] for i in kept] for row in body)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
