from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
from paddle import nn

from paddleseg_segformer import UserError, components, register_component
from paddleseg_segformer.cli import main
from paddleseg_segformer.components import find, import_components, resolve
from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.models import SegFormer

pytestmark = pytest.mark.usefixtures("own_components")


class Net(nn.Layer):
    pass


class OtherNet(nn.Layer):
    pass


@pytest.mark.parametrize("kind", components.KINDS)
def test_registered_component_is_found_as_decorated_and_as_called(kind: str) -> None:
    assert register_component(kind)(Net) is Net
    assert register_component(kind, "Called", functools.partial(Net)).func is Net
    assert register_component(kind, "Named")(OtherNet) is OtherNet
    assert resolve(kind, "Net") is Net and resolve(kind, "Named") is OtherNet
    assert resolve(kind, "Called")() is not None


def test_ours_are_not_replaced() -> None:
    with pytest.raises(UserError, match="has a model 'SegFormer' itself. Choose another name"):
        register_component("model", "SegFormer", Net)
    assert resolve("model", "SegFormer") is SegFormer


def test_another_component_of_a_taken_name_is_refused_and_the_same_is_not() -> None:
    register_component("loss", "Mine", Net)
    register_component("loss", "Mine", Net)
    with pytest.raises(UserError, match=r"'Mine' is registered already, by .*\.Net\."):
        register_component("loss", "Mine", OtherNet)
    register_component("backbone", "Mine", OtherNet)  # names are each kind's own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("los", "Mine", Net), "no kind 'los'. Did you mean 'loss'"),
        (("loss", None, functools.partial(Net)), "expected a class or function"),
        (("loss", "Mine", 3), "found 3, expected a class or function"),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_component(*arguments)


def test_unknown_type_suggests_users_components_and_paddlesegs() -> None:
    register_component("hook", "StopAtNight", Net)
    with pytest.raises(UserError, match="Did you mean 'StopAtNight'"):
        resolve("hook", "StopAtNigth")
    assert find("hook", "StopAtNigth") is None


def test_module_is_imported_from_a_file_and_by_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "my_one.py", tmp_path / "sub" / "my_two.py"):
        path.write_text(
            "from paddleseg_segformer import register_component\n"
            f"@register_component('loss')\ndef {path.stem}(ignore_index=255): pass\n"
        )
    monkeypatch.chdir(tmp_path)
    assert import_components("sub/my_two.py") == "my_two"
    assert import_components("my_one") == import_components("my_one.py") == "my_one"
    assert resolve("loss", "my_one").__module__ == "my_one"
    assert str(tmp_path / "sub") in sys.path  # where workers look for the module
    del sys.modules["my_one"]
    import_components("my_one")  # again: no name is taken


FAILING = {
    "my_missing_import.py": ("import nowhere_such", "No module named 'nowhere_such' .*, line 1"),
    "my_syntax.py": ("x = (", r"SyntaxError: .*my_syntax.py, line 1"),
    "my_division.py": ("\nx = 1 / 0", r"ZeroDivisionError: .*my_division.py, line 2"),
    "my_segformer.py": (
        "import paddleseg_segformer as p; p.register_component('model', 'SegFormer', dict)",
        "has a model 'SegFormer' itself",
    ),
    "json.py": ("", "there is another module 'json' .* Rename the file"),
}


@pytest.mark.parametrize("name", FAILING)
def test_module_that_fails_is_named_with_the_place(name: str, tmp_path: Path) -> None:
    content, message = FAILING[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"^--import .*{name}: .*{message}"):
        import_components(str(tmp_path / name))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py", "nowhere.py: no such file"),
        ("nowhere", "nowhere: neither a module nor the path of a .py file"),
        ("no/where", "neither a module nor"),
        ("nowhere.such", "neither a module nor"),
    ],
)
def test_module_that_is_not_there_is_one_line(
    source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check_dataset", "--config", "x.yml", "--import", source]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_unknown_type_names_the_import_that_its_config_notes(tmp_path: Path) -> None:
    config_from({"model": {"type": "Net"}, "needs_import": ["my_parts"]}, "my.yml")
    with pytest.raises(UserError, match="made with --import my_parts, which may be missing here"):
        resolve("hook", "Mine")
    (tmp_path / "my_parts.py").write_text("")
    import_components(str(tmp_path / "my_parts.py"))
    with pytest.raises(UserError) as caught:
        resolve("hook", "Mine")
    assert "--import" not in str(caught.value)


def test_known_names_are_listed_once() -> None:
    with pytest.raises(UserError) as caught:
        resolve("optimizer", "Zzz")
    names = str(caught.value).split("Known: ")[1].split(".")[0].split(", ")
    assert "AdamW" in names and len(names) == len(set(names))
