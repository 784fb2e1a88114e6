"""What the pages say holds: commands parse, code compiles, the example config builds."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

import paddleseg_segformer
from paddleseg_segformer import build_model, load_config
from tests.docs.pages import DOCS, PAGES, ROOT, code_blocks, name_of
from tools.make_reference import parser_of

COMMAND = re.compile(r"python ((?:tools|deploy/python)/\w+\.py)([^\n`#|&<>]*)")
COMMANDS = sorted(
    {
        (script, arguments.strip())
        for page in PAGES
        for script, arguments in COMMAND.findall(page.read_text(encoding="utf-8"))
        if arguments.strip() and not arguments.strip().startswith(("`", ":"))
    }
)
MISSION = (
    "python tools/train.py --config configs/segformer_b2_cityscapes_1024x1024_160k.yml",
    "python tools/export.py",
    "visualdl --logdir",
    "make demo",
    "make test",
)


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=map(" ".join, COMMANDS))
def test_command_is_understood(script: str, arguments: str) -> None:
    parser = parser_of(ROOT / script)
    given = shlex.split(re.sub(r"(--\w+ )?\.\.\.", "", arguments))
    if parser.prog.endswith("paddleseg_segformer"):  # the jobs' common parser
        given = [Path(script).stem, *given]
    assert parser.parse_args(given)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_code_compiles(page: Path) -> None:
    for code in code_blocks(page, "python"):
        if page.name != "python-reference.md":  # signatures
            ast.parse(code)


def test_example_config_of_own_data_builds_its_model(tmp_path: Path) -> None:
    (content, *_) = code_blocks(DOCS / "own-data.md", "yaml")
    path = tmp_path / "own.yml"
    path.write_text(content, encoding="utf-8")
    config = load_config(path)
    assert config.train_dataset is not None and config.val_dataset is not None
    assert build_model(config).num_classes == config.train_dataset["num_classes"] == 3


def test_readme_is_short_and_names_the_main_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 9000
    assert [command for command in MISSION if command not in text] == []


def test_version_is_the_same_in_code_changelog_and_citation() -> None:
    version = paddleseg_segformer.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"## {version} - {citation['date-released']}" in changelog
    assert citation["version"] == version
