"""Published weights by name: found on this machine, fetched from a real server, or explained."""

from __future__ import annotations

import dataclasses
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddleseg_segformer import list_models, zoo
from paddleseg_segformer.cli import main
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.config.schema import CONFIG_FOLDERS, Config, load_config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.model_folder import start_from_pretrained
from paddleseg_segformer.models import BACKBONES, SegFormer
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.weights.files.download import local_path

TINY = {"embed_dims": [8, 16, 20, 32], "depths": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def hub_folder(folder: Path) -> SegFormer:
    """Write a folder as the hub has it; return its model."""
    paddle.seed(5)
    model = SegFormer(4, BACKBONES["MixVisionTransformer_B0"](**TINY), 16)
    from paddleseg_segformer.config.schema import config_from
    from paddleseg_segformer.converting import save_model

    section = {
        "type": "SegFormer", "num_classes": 4, "embedding_dim": 16,
        "backbone": {"type": "MixVisionTransformer_B0", **TINY},
    }  # fmt: skip
    data = {"type": "Dataset", "num_classes": 4, "mode": "val", "transforms": [NORMALIZE]}
    save_model(model, config_from({"model": section, "val_dataset": data}, "t"), folder, "hf")
    return model


NORMALIZE = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NAME = "nvidia/segformer-b0-finetuned-ade-512-512"


@pytest.fixture
def server(home, monkeypatch):
    """The hub, with one model; `requests` holds what was asked for."""
    folder = home / "served" / NAME / "resolve" / "main"
    folder.parent.mkdir(parents=True)
    model = hub_folder(folder)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.rpartition("/")[2])
            super().do_GET()

        def log_message(self, *args) -> None:
            pass

    handler = partial(Handler, directory=str(home / "served"))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{http.server_port}/{NAME}/resolve/main"
    files = ("config.json", "preprocessor_config.json", "model.safetensors")
    monkeypatch.setitem(zoo.ZOO, NAME, dataclasses.replace(zoo.ZOO[NAME], url=url, files=files))
    yield model, asked
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("name", [NAME, "segformer_b0_ade20k"])
def test_name_is_fetched_once_and_predicts_as_its_model(server, name):
    model, asked = server
    predictor = Predictor.from_pretrained(name)
    assert sorted(asked) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    again = Predictor.from_pretrained(name)
    assert len(asked) == 3 and not again.pipeline.network.training
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, predictor.pipeline.network.state_dict()[key])
    np.testing.assert_array_equal(predictor(image).label, again(image).label)


def test_training_starts_from_a_name_and_from_the_hubs_own_cache(home, monkeypatch):
    snapshot = home / "hub" / "hub" / f"models--{NAME.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    model = hub_folder(snapshot)
    assert local_path(NAME) == snapshot
    section = {
        "type": "SegFormer", "num_classes": 3, "embedding_dim": 16, "pretrained": NAME,
        "backbone": {"type": "MixVisionTransformer_B0", **TINY},
    }  # fmt: skip
    config = Config(model=section)
    built = build_model(config)
    start_from_pretrained(built, config)
    key = "backbone.block4.0.mlp.fc1.weight"
    np.testing.assert_array_equal(built.state_dict()[key], model.state_dict()[key])


def test_without_a_network_one_line_says_which_file_goes_where(home, monkeypatch):
    gone = dataclasses.replace(zoo.ZOO["mit_b0"], url="http://127.0.0.1:1/mit_b0.tar.gz")
    monkeypatch.setitem(zoo.ZOO, "mit_b0", gone)
    target = home / "home" / "weights" / "mit_b0" / "mit_b0.tar.gz"
    with pytest.raises(UserError, match=re.escape(f"Put the file at {target}, or try again")):
        local_path("mit_b0")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name("mit_b0.pdparams").write_bytes(b"by hand")
    assert local_path("mit_b0").read_bytes() == b"by hand"


def test_a_file_of_the_same_name_comes_first(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "mit_b0").write_bytes(b"own")
    assert local_path("mit_b0") == Path("mit_b0")


def test_names_are_unique_and_the_configs_weights_are_among_them():
    models = list_models()
    names = [name for model in models for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    urls = {model.url for model in models}
    for path in sorted(CONFIG_FOLDERS[1].glob("*.yml")):
        source = load_config(path).model.get("backbone", {}).get("pretrained")
        is_ours = source and "paddle-hapi" not in source  # that is paddle.vision's, for its ResNets
        assert not is_ours or source in urls, path.name


def test_job_lists_them(home, capsys):
    assert main(["list_models"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"nvidia/mit-b0 +encoder +ImageNet-1k +13  no +NVIDIA Source Code", printed)
    (home / "home" / "weights" / "mit_b3").mkdir(parents=True)
    (home / "home" / "weights" / "mit_b3" / "x.pdparams").write_bytes(b"")
    assert main(["list_models", "--local"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " yes " in line]
    assert len(lines) == 1 and lines[0].startswith("mit_b3 ")


def test_misspelt_name_is_refused_at_once(capsys):
    config = "segformer_b0_street_scenes_256x512"
    option = "model.backbone.pretrained=nvidia/mit-b9"
    assert main(["train", "--config", config, "--opts", option]) == 1
    assert "a name that list_models knows, or null" in capsys.readouterr().err
