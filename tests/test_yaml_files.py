from __future__ import annotations

import time

import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.yaml_files import MAX_BYTES, parse_yaml, read_yaml


def doubling(first: str, line: str, levels: int = 30) -> str:
    """Return YAML in which each level holds the one before it twice."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {line.format(previous=f'*a{i - 1}')}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (doubling("[x, x]", "[{previous}, {previous}]"), "stands for more than 100000 values"),
        (doubling("{x: 1}", "{{p: {previous}, q: {previous}}}"), "stands for more than"),
        (doubling("{x: 1}", "{{<<: [{previous}, {previous}]}}"), "more than 100000 merged keys"),
        ("a: &a [*a]", "nested more than"),
        ("a: &a {b: *a}", "nested more than"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!binary '\U0001f600'", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_refused_at_once(text, message):
    start = time.perf_counter()
    with pytest.raises(UserError, match=message) as found:
        parse_yaml(text, "x.yml")
    assert str(found.value).startswith("x.yml: ") and "\n" not in str(found.value)
    assert time.perf_counter() - start < 10


def test_aliases_and_merges_of_a_config_are_read():
    text = "a: &a {x: 1, y: 2e-3}\nb: {<<: *a, x: 3}\nc: [*a, *a]"
    shared = {"x": 1, "y": 2e-3}
    assert parse_yaml(text, "x.yml") == {
        "a": shared,
        "b": {"x": 3, "y": 2e-3},
        "c": [shared, shared],
    }


def test_file_that_cannot_be_a_config_is_refused(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match=r"x.yml: not a config: \d+ bytes"):
        read_yaml(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="x.yml: not valid YAML"):
        read_yaml(path)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path)
