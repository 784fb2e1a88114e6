from __future__ import annotations

import time

import pytest
import yaml

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.yaml_files import MAX_BYTES, dump_yaml, parse_yaml, read_yaml

pytestmark = pytest.mark.check


def doubling(first: str, line: str, levels: int = 30) -> str:
    """Return YAML in which each level holds the one before it twice."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {line.format(previous=f'*a{i - 1}')}" for i in range(1, levels)]
    return "\n".join(lines)


def keys(count: int) -> str:
    return ", ".join(f"k{i}: {i}" for i in range(count))


def many(item: str, count: int) -> str:
    return ", ".join([item] * count)


def merging(num_keys: int, count: int) -> str:
    """Return YAML in which each of many mappings merges one of many keys."""
    lines = [f"a: &a {{{keys(num_keys)}}}", *(f"b{i}: {{<<: *a}}" for i in range(count))]
    return "\n".join(lines)


CHAIN = "\n".join(
    ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}" for i in range(1, 2000))]
)
HOSTILE = {
    "lists of lists": (doubling("[x, x]", "[{previous}, {previous}]"), "more than 100000 values"),
    "keys of keys": (doubling("{x: 1}", "{{p: {previous}, q: {previous}}}"), "stands for more"),
    "long list of aliases": (f"a: &a {{{keys(3000)}}}\nb: {{<<: [{many('*a', 50_000)}]}}", "30000"),
    "merges of many keys": (merging(1000, 10_000), "line 102: more than 100000 merged keys"),
    "chain of merges": (CHAIN, "more than 100000 merged keys"),
    "many values": (f"a: [{many('1', 500_000)}]", "more than 30000 keys and values"),
    "list in itself": ("a: &a [*a]", "nested more than"),
    "keys in themselves": ("a: &a {b: *a}", "nested more than"),
    "merged into itself": ("a: &a {<<: *a}", "nested more than"),
    "nested lists": ("a: " + "[" * 5000 + "]" * 5000, "nested more than"),
    "nested aliases": (doubling("[x]", "[{previous}]", 60), "nested more than"),
    "long number": ("a: " + "9" * 5000, "a number of 5000 characters"),
    "keys of one hash": (f"{{{', '.join(f'{i * (2**61 - 1)}: 1' for i in range(2000))}}}", "above"),
    "no date": ("a: 2001-99-99", "month must be in 1..12"),
    "code": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "no base64": ("a: !!binary '\U0001f600'", "not valid YAML"),
    "list as a key": ("? [a]\n: 1", "found a sequence as a key"),
    "merged number": ("a: {<<: 3}", "line 1: found a scalar to merge, expected keys and values"),
    "merged list of lists": ("a: {<<: [[b]]}", "found a sequence to merge"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_at_once(kind):
    text, message = HOSTILE[kind]
    start = time.process_time()
    with pytest.raises(UserError, match=message) as found:
        parse_yaml(text, "x.yml")
    assert str(found.value).startswith("x.yml: not valid YAML: ") and "\n" not in str(found.value)
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands in line 1 already"),
        ("x: {a: 1, 'a': 2}", "line 1: the key 'a' stands in line 1 already"),
        ("x:\n- 7: 1\n  0x7: 2", "line 3: the key '0x7' stands in line 2 already"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "line 4: the key '<<' stands in line 3 already"),
    ],
)
def test_key_that_stands_twice_is_refused_with_both_lines(text, lines):
    with pytest.raises(UserError, match=f"x.yml: not valid YAML: {lines}"):
        parse_yaml(text, "x.yml")


def test_aliases_and_merges_of_a_config_are_read():
    text = "a: &a {x: 1, y: 2e-3}\nb: {<<: *a, x: 3}\nc: [*a, *a]\nd: {x: 4, <<: *a}\n=: e"
    shared = {"x": 1, "y": 2e-3}
    assert parse_yaml(text, "x.yml") == {
        "a": shared,
        "b": {"x": 3, "y": 2e-3},
        "c": [shared, shared],
        "d": {"x": 4, "y": 2e-3},
        "=": "e",
    }


def test_first_of_merged_mappings_wins():
    text = "a: &a {first: 1, both: 1}\nb: &b {both: 2, second: 2}"
    found = parse_yaml(f"{text}\nc: {{<<: [*a, *b]}}\nd: {{<<: [*b, *a]}}", "x.yml")
    assert found["c"] == {"first": 1, "both": 1, "second": 2}
    assert found["d"] == {"first": 1, "both": 2, "second": 2}


@pytest.mark.parametrize(
    ("text", "num_keys"),
    [
        (doubling("{x: 1}", "{{<<: [{previous}, {previous}]}}"), 1),
        (f"a: &a {{{keys(1000)}}}\na29: {{<<: [{many('*a', 20_000)}]}}", 1000),
        (f"a29: {{{keys(10_000)}}}", 10_000),
    ],
)
def test_large_yaml_of_few_values_is_read_at_once(text, num_keys):
    start = time.process_time()
    assert len(parse_yaml(text, "x.yml")["a29"]) == num_keys
    assert time.process_time() - start < 4


def test_written_yaml_is_read_back():
    content = {"a": ["6e-5", 6e-5, "1.e3", "é", None, "=", "<<"], "<<": {"x": True}, "b": 1e22}
    assert parse_yaml(dump_yaml(content), "x.yml") == content
    assert yaml.safe_load(dump_yaml(content)) == content


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
