# SPDX-License-Identifier: Apache-2.0
"""BERT from a folder to integers, with a small random one in place of a trained one."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from ir.cli import UserError
from ir.graph import Host
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.lowering import partition, verify
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models import bert, build
from quant.nn.layers import quantised_layers
from tests.helpers.texts import ID, save_bert

LENGTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What ``save_pretrained`` leaves of an encoder without a classifier."""
    path = tmp_path_factory.mktemp("bert")
    save_bert(path)
    return path


def inputs(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (count, 1))).astype(np.int64)
    second = (np.arange(LENGTH) >= rng.integers(1, LENGTH, (count, 1))) * mask
    return tuple(map(torch.from_numpy, (rng.integers(0, len(ID), (count, LENGTH)), mask, second)))


def test_load_computes_what_transformers_does(folder, seed, capfd):
    torch.manual_seed(seed)
    model = bert.load(str(folder), 3).eval()
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    theirs.load_state_dict(model.state_dict())  # names are the same, and so is the new layer
    capfd.readouterr()
    x = inputs(8, seed)
    with torch.no_grad():
        expected = theirs(input_ids=x[0], attention_mask=x[1], token_type_ids=x[2]).logits
        torch.testing.assert_close(model(*x), expected)
        assert not torch.allclose(model(*x[:2], 1 - x[2]), expected)
    assert model(*x).shape == (8, 3)
    encoder = transformers.BertModel.from_pretrained(folder).state_dict()
    assert all(
        torch.equal(v, encoder[n.removeprefix("bert.")])
        for n, v in model.state_dict().items()
        if n.startswith("bert.")
    )


def test_load_keeps_a_classifier_that_fits(folder, tmp_path, seed):
    torch.manual_seed(seed)
    transformers.BertForSequenceClassification.from_pretrained(
        folder, num_labels=3
    ).save_pretrained(tmp_path)
    one, two, other = (bert.load(str(tmp_path), classes) for classes in (3, 3, 4))
    assert torch.equal(one.classifier.weight, two.classifier.weight)
    assert other.classifier.weight.shape == (4, 32)
    assert torch.equal(one.bert.pooler.dense.weight, other.bert.pooler.dense.weight)


def test_build_has_the_architecture_alone(folder, seed):
    torch.manual_seed(seed + 2)  # 1 made those in the folder
    model = build("bert", shape=(LENGTH,), classes=3, source=str(folder))
    trained = bert.load(str(folder), 3)
    assert {n: v.shape for n, v in model.state_dict().items()} == {
        n: v.shape for n, v in trained.state_dict().items()
    }
    name = "bert.pooler.dense.weight"
    assert not torch.equal(model.state_dict()[name], trained.state_dict()[name])
    assert bert.load_weights(model, str(folder)) == ["classifier.bias", "classifier.weight"]
    assert torch.equal(model.state_dict()[name], trained.state_dict()[name])


def test_weights_of_another_classifier_are_named(folder, tmp_path):
    transformers.BertForSequenceClassification.from_pretrained(
        folder, num_labels=3
    ).save_pretrained(tmp_path)
    for classes, missing in ((3, []), (2, ["classifier.bias", "classifier.weight"])):
        model = build("bert", shape=(LENGTH,), classes=classes, source=str(folder))
        assert bert.load_weights(model, str(tmp_path)) == missing


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    with pytest.raises(UserError, match=r"texts of 17 tokens are too long for .*takes 16"):
        build("bert", shape=(17,), classes=2, source=str(folder))
    for given in ({"width": 8}, {"stem": "cifar"}, {"source": None}, {"shape": (3, 8, 8)}):
        with pytest.raises(ValueError, match="model 'bert' takes texts of a number of tokens"):
            build("bert", **{"shape": (8,), "classes": 2, "source": str(folder)} | given)
    save_bert(tmp_path, hidden_size=16)
    with pytest.raises(UserError, match="is of another architecture") as error:
        bert.load_weights(bert.load(str(folder), 2), str(tmp_path))
    assert "\n" not in str(error.value)


def test_load_is_silent(folder, capfd):
    bert.load(str(folder), 2)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_load_refuses_what_it_cannot_find(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "cut").mkdir()
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (tmp_path / "cut" / name).write_bytes(content[: max(1000, len(content) // 2)])
    cases = {
        "no-such/model": "cannot load 'no-such/model', neither a folder with a model nor one",
        str(tmp_path / "none"): "cannot load .*none', neither a folder with a model nor one that",
        str(tmp_path / "empty"): "empty is not a folder with a model: it has no config.json",
        str(tmp_path / "gpt2"): "is a model of type 'gpt2', not 'bert'",
        str(tmp_path / "cut"): "cannot load .*cut'",
        str(tmp_path / "torn"): "cannot load .*torn'",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            bert.load(name, 2)
        assert "\n" not in str(error.value)
        if not name.endswith(("cut", "torn")):  # whose config.json is there
            with pytest.raises(UserError, match=message):
                bert.build(name, (8,), 2)


def test_load_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers.*: pip install 'rmsmp\[text\]'"):
        bert.load(str(folder), 2)


@pytest.mark.slow
def test_from_folder_to_integers(folder, seed):
    torch.manual_seed(seed)
    model = prepare(bert.load(str(folder), 2), inputs(2, seed), host=True)
    calibrate(model, *inputs(32, seed))
    for layer in quantised_layers(model).values():
        layer.assign(torch.arange(len(layer.weight)) % len(Scheme))
    align_scales(model)
    graph = export(model, inputs(2, seed), name="bert", ratio=Ratio(34, 33, 33), tile_rows=16)

    assert len(quantised_layers(model)) == 2 * 6 + 2  # all linear layers
    on_host = [node for node in graph.nodes if isinstance(node, Host)]
    assert len(on_host) == 2 * 4 + 2
    assert {"embedding", "layer_norm"} <= set(on_host[0].ops)
    assert {"matmul", "softmax"} <= set(on_host[1].ops) and on_host[3].ops == ("gelu",)
    assert graph.header.host_inputs == ("input_ids", "attention_mask", "token_type_ids")
    devices = [
        node
        for node in model.graph.nodes
        if any(isinstance(a, torch.device) for a in (*node.args, *node.kwargs.values()))
    ]
    assert not devices  # it trains wherever it is moved to

    x = inputs(32, seed + 1)
    logits = verify.verify(
        graph, tuple(part.numpy() for part in x), batch=16, host=partition.HostRunner(model)
    )
    with torch.no_grad():
        fake = model.eval()(*x).numpy()
    assert np.array_equal(fake, (logits * graph.output.scale).astype(np.float32))
