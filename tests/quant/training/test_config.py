# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: presets, limits, files."""

import pytest

from quant.assignment.methods import METHODS
from quant.models import MODELS
from quant.training.config import PRESETS, TrainConfig, read_settings


def test_presets_are_the_defaults() -> None:
    assert TrainConfig() == TrainConfig.resolve(dataset="digits", model="tiny", epochs=20)
    fashion = TrainConfig.resolve(dataset="fashion-mnist", epochs=7, seed=None)
    assert fashion.epochs == 7 and fashion.seed == 1
    assert fashion.batch_size == PRESETS["fashion-mnist"].batch_size
    cifar = TrainConfig.resolve(dataset="cifar100")
    assert (cifar.model, cifar.float_epochs, cifar.epochs, cifar.lr, cifar.batch_size) == (
        "resnet18",
        150,
        150,
        4e-3,
        128,
    )
    assert TrainConfig.resolve(dataset="cifar10").lr == 8e-3


@pytest.mark.parametrize("name", METHODS)
def test_method_decides_the_ratio(name) -> None:
    assert TrainConfig.resolve(method=name).ratio == str(METHODS[name].ratio)


def test_given_ratio_replaces_that_of_the_method() -> None:
    assert TrainConfig.resolve(ratio="60:35:5").ratio == "60:35:5"
    with pytest.raises(ValueError, match="method 'fixed4' has no POT4 rows"):
        TrainConfig.resolve(method="fixed4", ratio="60:35:5")


def test_a_board_leaves_rows_and_ratio_open() -> None:
    """Until the network is known; what is given stays."""
    config = TrainConfig.resolve(board="zc706")
    assert (config.ratio, config.given_rows) == (None, None)
    fixed = TrainConfig.resolve(board="zc706", method="fixed4")
    assert (fixed.ratio, fixed.given_rows) == ("0:100:0", None)
    mine = TrainConfig.resolve(board="zc706", ratio="65:30:5", tile_rows=32)
    assert (mine.ratio, mine.given_rows) == ("65:30:5", 32)
    assert TrainConfig.resolve(**mine.model_dump()) == mine
    assert TrainConfig.resolve(board="zc706", method="float32").ratio is None
    assert (TrainConfig.resolve().ratio, TrainConfig.resolve().given_rows) == ("65:30:5", 16)


def test_float32_is_not_quantised() -> None:
    config = TrainConfig.resolve(method="float32", epochs=3)
    assert (config.ratio, config.epochs, config.float_epochs) == (None, 0, 20)
    with pytest.raises(ValueError, match="method float32 has no schemes: leave ratio out"):
        TrainConfig.resolve(method="float32", ratio="65:30:5")


def test_checkpoint_replaces_float_epochs() -> None:
    assert TrainConfig.resolve(pretrained="f.pt").float_epochs == 0
    assert TrainConfig.resolve(pretrained="f.pt", float_epochs=2).float_epochs == 2
    assert TrainConfig.resolve(pretrained="f.pt", method="float32").float_epochs == 20
    with pytest.raises(ValueError, match="name it with pretrained"):
        TrainConfig.resolve(normalised=True)


def test_onnx_file_is_network_and_weights() -> None:
    config = TrainConfig.resolve(onnx="some/net.onnx", normalised=True)
    assert (config.model, config.network, config.float_epochs) == ("onnx", "net", 0)
    assert TrainConfig.resolve(onnx="net.onnx", pretrained="runs/a/float.pt").epochs == 20
    assert TrainConfig.resolve(model="tiny").network == "tiny"


def test_hugging_face_model_has_float_epochs_and_a_tokenizer() -> None:
    config = TrainConfig.resolve(dataset="movies", pretrained="org/bert")
    assert (config.model, config.float_epochs, config.tokenizer) == ("bert", 3, "org/bert")
    config = TrainConfig.resolve(dataset="sst2", pretrained="runs/a/float.pt", tokenizer="org/bert")
    assert (config.float_epochs, config.tokenizer, config.hessian_images) == (0, "org/bert", 128)
    config = TrainConfig.resolve(
        dataset="mnli", pretrained="org/bert", tokenizer="other", float_epochs=1
    )
    assert (config.float_epochs, config.tokenizer) == (1, "other")
    assert TrainConfig.resolve().hessian_images == 1024
    assert TrainConfig.resolve(pretrained="org/bert").tokenizer is None


def test_text_becomes_the_type_of_the_setting() -> None:
    config = TrainConfig.resolve(lr="2e-3", seed="7", width="8")
    assert (config.lr, config.seed, config.width) == (0.002, 7, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "mnist"}, "unknown dataset 'mnist'; known are digits, fashion-mnist"),
        ({"model": "vgg"}, f"unknown model 'vgg'; known are {', '.join(MODELS)}"),
        ({"method": "int3"}, "unknown method 'int3'; known are float32, fixed4"),
        ({"colour": 1}, "unknown setting 'colour'; known are dataset, data, "),
        ({"ratio": "65:30"}, "ratio '65:30' is not of the form PoT4:Fixed4:Fixed8"),
        ({"tile_rows": 0}, "tile_rows should be greater than or equal to 1, not 0"),
        ({"epochs": -1}, "epochs should be greater than or equal to 0, not -1"),
        ({"lr": 0}, "lr should be greater than 0, not 0"),
        ({"lr": float("nan")}, "lr should be a finite number, not nan"),
        ({"float_lr": "inf"}, "float_lr should be a finite number, not 'inf'"),
        ({"act_bits": 5}, "act_bits should be 4 or 8, not 5"),
        (
            {"assign": "magnitude"},
            "assign should be 'hessian', 'random', 'fisher' or 'error', not 'magnitude'",
        ),
        (
            {"seed": "x"},
            "seed should be a valid integer, unable to parse string as an integer, not 'x'",
        ),
        ({"model": "bert"}, "model 'bert' reads texts, digits has images"),
        ({"dataset": "sst2", "model": "tiny"}, "model 'tiny' reads images, sst2 has texts"),
        (
            {"dataset": "sst2"},
            "model 'bert' starts from a trained one: name a Hugging Face model with",
        ),
        ({"dataset": "sst2", "tokenizer": "b"}, "model 'bert' starts from a trained one"),
        ({"dataset": "sst2", "pretrained": "f.pt"}, "a checkpoint has no tokenizer: name"),
        (
            {"dataset": "sst2", "pretrained": "b", "width": 8},
            "width is a setting of networks for imag",
        ),
        (
            {"dataset": "sst2", "pretrained": "b", "stem": "cifar"},
            "stem is a setting of networks for",
        ),
        (
            {"dataset": "sst2", "pretrained": "b", "normalised": True},
            "normalised is a setting of netw",
        ),
        ({"model": "onnx"}, "model onnx is that of a file: name it with --onnx"),
        ({"model": "tiny", "onnx": "a.onnx"}, "model onnx is that of a file: name it with"),
        ({"onnx": "a.onnx", "stem": "cifar"}, "stem is that of the network in a.onnx: leave it"),
        ({"dataset": "sst2", "onnx": "a.onnx"}, "model 'onnx' reads images, sst2 has texts"),
        ({"subset": 10}, "subset 10 is less than one batch of 64"),
    ],
)
def test_impossible_value_is_named_in_one_line(given, message) -> None:
    with pytest.raises(ValueError) as caught:
        TrainConfig.resolve(**given)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_dump_is_read_again(tmp_path) -> None:
    for given in (
        {"dataset": "fashion-mnist", "ratio": "50:40:10", "subset": 1000, "data": "d"},
        {"dataset": "movies", "pretrained": "org/bert"},
        {"method": "float32"},
        {"pretrained": "f.pt", "normalised": True},
    ):
        config = TrainConfig.resolve(**given)
        (tmp_path / "c.json").write_text(config.dump())
        assert TrainConfig.load(tmp_path / "c.json") == config


def test_toml_is_read(tmp_path) -> None:
    (tmp_path / "c.toml").write_text('dataset = "cifar10"\nlr = 1e-3\ncompile = true\n')
    config = TrainConfig.load(tmp_path / "c.toml")
    assert (config.dataset, config.lr, config.compile, config.epochs) == (
        "cifar10",
        1e-3,
        True,
        150,
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.yaml", "lr: 1", "settings are read from .json and .toml files"),
        ("c.json", '{"lr": ', "is damaged"),
        ("c.toml", "lr = ", "is damaged"),
        ("c.json", "[1]", "does not hold settings by name"),
        ("none.json", None, "cannot be read: No such file"),
    ],
)
def test_file_without_settings(name, content, message, tmp_path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": ["digits"]}, "dataset must be text"),
        ({"model": ["tiny"]}, "model must be text"),
        ({"method": {"a": 1}}, "method must be text"),
        ({"ratio": [65, 30, 5]}, "ratio must be text"),
        ({"dataset": "sst2", "pretrained": ["a"]}, "pretrained must be text"),
        ({"seed": 1 << 80}, "seed"),
        ({"threads": 100_000}, "threads"),
    ],
)
def test_wrong_types_and_sizes_are_one_line(given, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TrainConfig.resolve(**given)
    assert "\n" not in str(error.value)
