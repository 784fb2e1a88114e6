"""Damaged, mislabelled and malicious files: one clear line each, nothing run, nothing assigned."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import malicious
import numpy as np
import paddle
import pytest
from small_models import NARROW_MIT

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import MixVisionTransformer, SegFormer
from paddleseg_segformer.weights import load_pretrained, load_weights, open_checkpoint
from paddleseg_segformer.weights.files.pickles import read_pickle
from paddleseg_segformer.weights.files.stored import read_torch
from paddleseg_segformer.weights.formats import HUGGINGFACE, NVLABS
from paddleseg_segformer.weights.formats.naming import export_state

torch = pytest.importorskip("torch")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

SIZES = NARROW_MIT
WEIGHT = "backbone.block2.0.attn.q.weight"
State = dict[str, np.ndarray]


def make(**changes: Any) -> SegFormer:
    sizes = {**SIZES, **{key: changes[key] for key in changes if key in ("depths", "embed_dims")}}
    return SegFormer(changes.get("num_classes", 3), MixVisionTransformer(**sizes), 16)


def state_of(net: paddle.nn.Layer) -> State:
    return {key: value.numpy() for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def model() -> SegFormer:
    return make()


@pytest.fixture(scope="module")
def good(model: SegFormer) -> State:
    return state_of(model)


def save_paddle(path: Path, state: Any) -> None:
    path.write_bytes(pickle.dumps(state, protocol=4))


def save_torch(path: Path, state: State, **options: Any) -> None:
    nvlabs = export_state(NVLABS, state, 3)
    torch.save({key: torch.from_numpy(value) for key, value in nvlabs.items()}, path, **options)


def save_safetensors(path: Path, state: State) -> None:
    safetensors_numpy.save_file(state, path)


def write_header(path: Path, header: Any, data: bytes = bytes(16)) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def changed(**weights: Any) -> Callable[[State], State]:
    """Return a function that replaces weights (None: removes), named with __ for the dots."""

    def change(state: State) -> State:
        new = {**state, **{key.replace("__", "."): value for key, value in weights.items()}}
        return {key: value for key, value in new.items() if value is not None}

    return change


def one_value(value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        array = state[WEIGHT].copy()
        array[1, 2] = value
        return {**state, WEIGHT: array}

    return change


# Bytes under any name.
BYTES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x80",
    "random": np.random.default_rng(0).bytes(4096),
    "zeros": bytes(4096),
    "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "web page after blank lines": b"\n\n  <html>Sign in</html>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "JSON": b'{"error": "rate limited"}',
    "gzip": gzip.compress(b"weights"),
    "zip of nothing": b"PK\x05\x06" + bytes(18),
    "zip signature only": b"PK\x03\x04",
    "pickle of a list": pickle.dumps([1, 2]),
    "pickle of text": pickle.dumps("weights"),
    "pickle of None": pickle.dumps(None),
    "pickle of an empty dictionary": pickle.dumps({}),
    "pickle of numbers": pickle.dumps({"backbone.norm1.weight": 3}),
    "pickle with numbers as names": pickle.dumps({0: np.zeros(2, np.float32)}),
    "pickle of objects": pickle.dumps({"a": np.array([{}, []], dtype=object)}),
    "pickle of depth": b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "pickle without end": b"\x80\x04]",
    "pickle of a huge array": b"\x80\x04cnumpy\nndarray\n((" + 3 * b"J\xff\xff\xff\x7f" + b"ttR.",
    "pickle of an unknown class": b"\x80\x04cnowhere\nThing\n)R.",
}

# Wrong weights, in the three containers.
STATES: dict[str, Callable[[State], Any]] = {
    "missing weight": changed(backbone__norm1__bias=None),
    "missing classifier": changed(linear_pred__weight=None),
    "extra weight": changed(backbone__norm1__extra=np.zeros(3, np.float32)),
    "integers": changed(backbone__norm1__bias=np.zeros(8, np.int64)),
    "booleans": changed(backbone__norm1__bias=np.zeros(8, bool)),
    "no axes": changed(backbone__norm1__bias=np.array(1, np.float32)),
    "no elements": changed(backbone__norm1__bias=np.zeros(0, np.float32)),
    "another rank": changed(backbone__patch_embed2__proj__weight=np.zeros((4, 4), np.float32)),
    "NaN": one_value(float("nan")),
    "infinity": one_value(float("inf")),
    "minus infinity": one_value(float("-inf")),
    "another depth": lambda _: state_of(make(depths=(1, 2, 1, 1))),
    "another width": lambda _: state_of(make(embed_dims=(16, 32, 80, 128))),
    "another class count": lambda _: state_of(make(num_classes=4)),
    "a backbone only": lambda _: state_of(make().backbone),
    "another network": lambda _: {"stem.weight": np.ones(3, np.float32)},
    "no weights": lambda _: {},
}

SAFETENSORS: dict[str, tuple[Any, ...]] = {
    "header longer than any file": (b"{",),
    "header is no JSON": (b"{not json",),
    "header is a list": (b"[]",),
    "offsets beyond the file": ({"a": entry(offsets=(0, 1600), shape=(20, 20))},),
    "offsets reversed": ({"a": entry(offsets=(16, 0))},),
    "offsets overlap": ({"a": entry(), "b": entry()},),
    "a hole": ({"a": entry(), "b": entry(offsets=(32, 48))}, bytes(48)),
    "shape is larger than the data": ({"a": entry(shape=(9, 9))},),
    "shape overflows": ({"a": entry(shape=(2**62, 2**62))},),
    "negative shape": ({"a": entry(shape=(-2, -2))},),
    "unknown type": ({"a": entry(dtype="F33")},),
    "8-bit floats": ({WEIGHT: entry(dtype="F8_E4M3", shape=(4, 4))},),
    "data after the last": ({"a": entry()}, bytes(32)),
    "no data": ({"a": entry()}, b""),
    "nesting": (b'{"a":' * 100_000,),
}


def refused(path: Path, model: SegFormer, is_start: bool = False) -> str:
    """Return the message with which a file is refused; check that the model stays as it was.

    Args:
        is_start: the file may be one to start training from.
    """
    before = state_of(model)
    readers = [lambda path: load_weights(model, path)]
    readers += [] if is_start else [lambda path: load_pretrained(model, str(path))]
    messages = []
    for read in readers:
        with pytest.raises(UserError) as caught:
            read(path)
        messages.append(str(caught.value))
    try:
        open_checkpoint(path)  # a sound file of other weights opens
    except UserError as error:
        messages.append(str(error))
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key], err_msg=key)
    for message in messages:
        assert "\n" not in message and 20 < len(message) < 900, message
        assert path.name in message or path.parent.name in message, message
        assert "Traceback" not in message and "weights_only" not in message, message
    return messages[0]


@pytest.mark.parametrize("suffix", [".pdparams", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_weights(tmp_path, model, kind, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(BYTES[kind])
    refused(path, model)


@pytest.mark.parametrize("save", [save_paddle, save_torch, save_safetensors])
@pytest.mark.parametrize("kind", STATES)
def test_wrong_weights(tmp_path, model, good, kind, save):
    path = tmp_path / "weights.any"
    try:
        save(path, STATES[kind](good))
    except KeyError:
        pytest.skip("NVlabs has no name for it")
    message = refused(path, model, is_start=kind == "another class count")
    if "inf" in kind or kind == "NaN":
        assert f"{WEIGHT} holds numbers that are not finite" in message


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_lying_safetensors_headers(tmp_path, model, kind):
    path = tmp_path / "model.safetensors"
    write_header(path, *SAFETENSORS[kind])
    if kind.startswith("header longer"):
        path.write_bytes(struct.pack("<Q", 2**62) + b"{}" + bytes(100))
    refused(path, model)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("save", [save_paddle, save_torch, save_safetensors])
def test_files_cut_short(tmp_path, model, good, save, share):
    path = tmp_path / "weights.any"
    save(path, good)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, model)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_old_torch_files_cut_short(tmp_path, model, good, share):
    path = tmp_path / "weights.pth"
    save_torch(path, good, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, model)


ATTACKS = list(malicious.attacks(Path("canary")))


@pytest.mark.parametrize("container", ["paddle", "zip", "legacy", "optimizer beside"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_not_run(tmp_path, model, good, attack, container):
    canary = tmp_path / "canary"
    content: Any = {"weight": malicious.attacks(canary)[attack]}
    path = tmp_path / "model.bin"
    if container == "paddle":
        path.write_bytes(pickle.dumps({**good, **content}))
    elif container == "optimizer beside":
        state = {key: torch.from_numpy(value) for key, value in good.items()}
        torch.save({"state_dict": state, "optimizer": content}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    assert "it would run" in refused(path, model)
    assert not canary.exists()


def test_code_in_handwritten_and_nested_pickles_is_not_run(tmp_path, model):
    canary = tmp_path / "canary"
    for content in (malicious.raw_attack(canary), malicious.second_stage(canary)):
        path = tmp_path / "model.pdparams"
        path.write_bytes(b"\x80\x04" + content if content[:1] != b"\x80" else content)
        refused(path, model)
        with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")
        refused(tmp_path / "model.pth", model)
    assert not canary.exists()


def test_other_zip_files(tmp_path, model):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("word/document.xml", "<text/>")
    refused(tmp_path / "model.pth", model)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "scripted.pt")
    refused(tmp_path / "scripted.pt", model)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "would run torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pth", model)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_archives_that_were_packed_anew(tmp_path, model, good, compression):
    """Packed entries would be mapped as they are; of two of one name, readers take either."""
    save_torch(tmp_path / "good.pth", good)
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "good.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), compression)
        if compression == zipfile.ZIP_STORED:
            load_weights(model, tmp_path / "good.pth")
            with pytest.warns(UserWarning, match="Duplicate name"):
                new.writestr("good/data/0", b"1")
    assert "compressed or named twice" in refused(path, model)


def test_record_that_was_cut_in_an_archive(tmp_path, model, good):
    """Without its last byte, in whose place PyTorch maps the first of what follows."""
    save_torch(tmp_path / "good.pth", good)
    path = tmp_path / "cut.pth"
    with zipfile.ZipFile(tmp_path / "good.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: -1 if name.endswith("/data/3") else None])
    assert "a tensor is longer than its record" in refused(path, model)


def test_torch_tensors_that_are_no_weights(tmp_path, model, good):
    path = tmp_path / "weights.pth"
    name = "backbone.norm1.bias"
    for value in (
        torch.eye(8).to_sparse(),
        torch.zeros(8, dtype=torch.complex64),
        torch.zeros(8, device="meta"),
        torch.zeros(1).expand(2**40),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        [1.0] * 8,
        "weights",
        None,
    ):
        save_torch(path, good)
        content = torch.load(path, weights_only=True)
        torch.save({**content, name: value}, path)
        assert name in refused(path, model)


def test_archive_in_place_of_weights(tmp_path, model):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model.pdparams"))
    (tmp_path / "model.pdparams").write_bytes(buffer.getvalue())
    assert "Unpack it first" in refused(tmp_path / "model.pdparams", model)


def hub(folder: Path, good: State, **changes: Any) -> Path:
    folder.mkdir()
    state = export_state(HUGGINGFACE, good, 3)
    safetensors_numpy.save_file(state, folder / "model-00001.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-00001.safetensors"), **changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


FIRST = "decode_head.classifier.bias"
INDICES: dict[str, dict[str, Any]] = {
    "a parent's file": {"weight_map": {FIRST: "../secret.safetensors"}},
    "an absolute path": {"weight_map": {FIRST: "/etc/passwd"}},
    "a missing shard": {"weight_map": {FIRST: "model-00002.safetensors"}},
    "another tensor": {"weight_map": {FIRST: "model-00001.safetensors", "a": "x"}},
    "a number": {"weight_map": {FIRST: 3}},
    "a list": {"weight_map": [1]},
    "nothing": {"weight_map": {}},
    "itself": {"weight_map": {FIRST: "model.safetensors.index.json"}},
}


@pytest.mark.parametrize("kind", INDICES)
def test_indices_that_name_other_files(tmp_path, model, good, kind):
    save_safetensors(tmp_path / "secret.safetensors", good)
    refused(hub(tmp_path / "hub", good, **INDICES[kind]), model)


def test_index_that_is_nested_without_end(tmp_path, model, good):
    folder = hub(tmp_path / "hub", good)
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    assert "not an index of weight files" in refused(folder, model)


def test_file_of_tensors_without_end(tmp_path, model):
    """Each costs 64 bytes of the file: a million of them cost 40 s."""
    names = {f"t{index}": entry(shape=(0,), offsets=(0, 0)) for index in range(100_001)}
    header = json.dumps(names).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "found 100001 tensors, expected at most 100000" in refused(path, model)


def test_sound_index_is_read(tmp_path, model, good):
    report = load_weights(model, hub(tmp_path / "hub", good))
    assert report.is_exact and len(report.matched) == len(good)


SIDECARS: dict[str, tuple[str, str]] = {
    "YAML that runs code": (
        "config.yml",
        "model: !!python/object/apply:os.system ['touch {canary}']\n",
    ),
    "YAML of an unknown key": ("config.yml", "model: {type: SegFormer}\nnonsense: 1\n"),
    "YAML of other sizes": (
        "config.yml",
        "model: {type: SegFormer, num_classes: 3, backbone: {type: MixVisionTransformer_B1}}\n",
    ),
    "YAML of another head": (
        "config.yml",
        "model: {type: SegFormerMM, backbone: {type: MixVisionTransformer, depths: [1, 1, 1, 1],"
        " embed_dims: [8, 16, 40, 64]}}\n",
    ),
    "YAML without a backbone": ("config.yml", "model: {type: SegFormer, backbone: 3}\n"),
    "YAML cut short": ("config.yml", "model: {type: SegFormer"),
    "empty YAML": ("config.yml", ""),
    "YAML bomb": (
        "config.yml",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a]\nmodel: *b\n",
    ),
    "JSON cut short": ("config.json", '{"model_type": "segformer"'),
    "JSON list": ("config.json", "[]"),
    "JSON of another model": ("config.json", '{"model_type": "bert"}'),
    "JSON of other sizes": ("config.json", '{"depths": [3, 4, 6, 3]}'),
    "JSON of text for numbers": ("config.json", '{"hidden_sizes": "many"}'),
    "JSON of wrong labels": ("config.json", '{"id2label": {"a": "b"}}'),
    "JSON without labels": ("config.json", '{"id2label": {}}'),
}


@pytest.mark.parametrize("kind", SIDECARS)
def test_configs_beside_the_weights(tmp_path, model, good, kind):
    canary, folder = tmp_path / "canary", hub(tmp_path / "hub", good)
    name, text = SIDECARS[kind]
    (folder / name).write_text(text.replace("{canary}", str(canary)))
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder)
    lines = getattr(caught.value, "mistakes", [str(caught.value)])
    assert name in str(caught.value) and not any("\n" in line for line in lines)
    assert not canary.exists()


def test_folders_without_weights(tmp_path, model):
    assert "no weight file, expected one of model.safetensors" in refused(tmp_path, model)
    (tmp_path / "model.safetensors").mkdir()
    assert "no weight file" in refused(tmp_path, model)
    assert "no such weight file" in refused(tmp_path / "nowhere" / "model.pth", model)


def doubled(depth: int) -> bytes:
    """Return a pickle of lists of two times the same list."""
    levels = (b"]q%c(h%ch%ce" % (level + 1, level, level) for level in range(depth))
    return b"\x80\x02]q\0" + b"".join(levels) + b"."


def hexed(times: int) -> bytes:
    """Return a pickle that encodes bytes as hexadecimal digits again and again."""
    start = b"B" + struct.pack("<I", 1000) + b"x" * 1000
    call = b"c_codecs\nencode\n"
    return b"\x80\x03" + call * times + start + (b"X\x03\0\0\0hex\x86R" * times) + b"."


HOSTILE = {
    "lists doubled through the memo": doubled(40),
    "bytes encoded again and again": hexed(19),
    "a memo of 2^28 entries": b"\x80\x02]r" + struct.pack("<I", 1 << 28) + b".",
    "an array of nothing": b"\x80\x02cnumpy\nndarray\nJ"
    + struct.pack("<i", 3 << 27)
    + b"\x85\x85R.",
    "an array of nothing, by the usual way": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ"
        + struct.pack("<i", 3 << 27)
        + b"\x85U\x01b\x87R."
    ),
    "a type that NumPy would make": b"\x80\x02cnumpy\ndtype\nX\x03\0\0\0O,O\x85R.",
    "numbers whose addresses the file chooses": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x01\0\0\0O\x85R"
        b"C\x08\x08\0\0\0\0\0\0\0\x86R."
    ),
    "the attributes of a function": (
        b"\x80\x02c_codecs\nencode\nN}X\x0c\0\0\0__defaults__X\x03\0\0\0hex\x85s\x86b"
        b"X\x01\0\0\0a\x85R."
    ),
    "bytes that are not there": b"\x80\x04B" + struct.pack("<I", (1 << 32) - 1) + b".",
}
SOUND = {
    "a memo of 2^28 entries": "read []",  # as a small number there
    "the attributes of a function": "read b'a'",  # and it has them no more than before
}
TORCH = {
    "bytes encoded again and again": (
        b"\x80\x02"
        + b"c_codecs\nencode\n" * 20
        + b"X\x03\0\0\0xyzX\x06\0\0\0latin1\x86R"
        + b"X\x09\0\0\0HEX-codec\x86R" * 19
        + b"."
    ),
    "bytes of nothing": b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**30) + b"\x85R.",
    **{
        kind: HOSTILE[kind]
        for kind in (
            "lists doubled through the memo",
            "a memo of 2^28 entries",
            "an array of nothing",
            "an array of nothing, by the usual way",
            "a type that NumPy would make",
            "numbers whose addresses the file chooses",
        )
    },
}
BOUNDED = """
import resource, sys
from pathlib import Path
from paddleseg_segformer.errors import UserError
paths = [Path(name) for name in sys.argv[1:]]
if paths[0].suffix == ".pth":
    import torch
    from paddleseg_segformer.weights.files.stored import read_torch
    torch.load  # imported before anything is measured
    read = lambda path: read_torch(path, path.parent.name == "zip")
else:
    from paddleseg_segformer.weights.files.pickles import read_pickle as read
for path in paths:
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        content = read(path)
    except UserError as error:
        print(error)
    else:
        print("read", content)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime - before.ru_utime, (after.ru_maxrss - before.ru_maxrss) / 1024)
"""


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_and_numbers_are_what_pickle_makes_of_them(tmp_path, protocol):
    rng = np.random.default_rng(0)
    kinds = ["<f4", ">f4", "<f8", "<f2", "<i8", ">i2", "|u1", "|b1", "<u2", "<c8"]
    content = {kind: rng.integers(0, 2, (3, 4)).astype(kind) for kind in kinds}
    content["columns"] = np.asfortranarray(content["<f4"])
    if protocol > 2:  # which has empty bytes made by a function
        content["none"] = np.empty((0, 3), "<f4")
    content |= {"no axes": np.array(2.5, "<f4"), "number": np.float32(1.5), "step": np.int64(7)}
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(path)
    for name, expected in content.items():
        assert type(found[name]) is type(expected), name
        assert found[name].dtype == expected.dtype and found[name].shape == expected.shape, name
        np.testing.assert_array_equal(found[name], expected)


def said_of(*paths: Path) -> list[str]:
    """Return what another process says of files; each may take 5 s and 250 MiB."""
    command = [sys.executable, "-c", BOUNDED, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for cost, path in zip(lines[1::2], paths, strict=True):
        processor_s, memory_mib = map(float, cost.split())
        assert processor_s < 5 and memory_mib < 250, path
    return lines[::2]


@pytest.mark.parametrize("kind", HOSTILE)
def test_small_pickles_cost_little(tmp_path, kind):
    path = tmp_path / "x.pdparams"
    path.write_bytes(HOSTILE[kind])
    [answer] = said_of(path)
    if kind in SOUND:
        assert answer == SOUND[kind]
    else:
        assert "not a readable Paddle weight file" in answer


def torch_file(path: Path, content: bytes, compression: int = 0) -> Path:
    """Write a pickle as PyTorch's files hold it, of the kind that the folder is named after."""
    path.parent.mkdir(exist_ok=True)
    if path.parent.name == "zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")
            archive.writestr("archive/byteorder", "little")
    else:
        sizes = {"short": 2, "int": 4, "long": 4}
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
        heads = [0x1950A86A20F9469CFC6C, 1001, system]
        parts = [*(pickle.dumps(head, 2) for head in heads), content, pickle.dumps([], 2)]
        path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_small_pickles_of_torch_cost_little(tmp_path, container):
    for kind, content in TORCH.items():
        torch_file(tmp_path / container / f"{kind}.pth", content)
    paths = sorted((tmp_path / container).iterdir())
    if container == "zip":
        content = b"\x80\x02X" + struct.pack("<I", 300 << 20) + bytes(300 << 20) + b"."
        paths.append(torch_file(tmp_path / "zip" / "bomb.pth", content, zipfile.ZIP_DEFLATED))
        assert paths[-1].stat().st_size < 1 << 20
        paths.append(torch_file(tmp_path / "zip" / "several.pth", pickle.dumps({}, 2)))
        with pytest.warns(UserWarning), zipfile.ZipFile(paths[-1], "a") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    for path, answer in zip(paths, said_of(*paths), strict=True):
        expected = SOUND.get(path.stem, "not a readable PyTorch weight file")
        assert expected in answer, path


@pytest.mark.parametrize("is_zip", [False, True])
def test_arrays_of_torch_files_are_what_was_saved(tmp_path, is_zip):
    arrays = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.float64(2), "c": b"bytes"}
    arrays |= {"d": np.array(["x", "yz"]), "hexagon": torch.arange(3)}
    path = tmp_path / "x.pth"
    torch.save({**arrays, "deep": {"deeper": arrays}}, path, _use_new_zipfile_serialization=is_zip)
    found = read_torch(path, is_zip)
    assert found.pop("deep").keys() == {"deeper"}
    np.testing.assert_array_equal(found.pop("hexagon").read(), [0, 1, 2])
    for name, value in found.items():
        assert type(value) is type(arrays[name])
        np.testing.assert_array_equal(value, arrays[name])
