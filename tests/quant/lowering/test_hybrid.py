# SPDX-License-Identifier: Apache-2.0
"""Partition between host and accelerator: where it runs, and that both sides agree on it."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import golden
from ir.arrays import ExportError
from ir.graph import GraphError, Host, IntGraph
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.capture.writer import UnsupportedLayer
from quant.lowering import partition, verify
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.activations import ActQuantiser
from quant.nn.layers import float_mode, quantised_layers

LENGTH, WIDTH = 6, 8


class Mixer(nn.Module):
    """Every kind of crossing: shared and own inputs, kept values, constants, sizes, a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12)
        self.pool, self.fc = nn.Linear(12, 5), nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(tokens) + torch.arange(LENGTH, device=tokens.device)[:, None] / LENGTH
        x = self.dropout(x)
        query = self.query(x).view(tokens.shape[0], LENGTH, 2, WIDTH // 2).transpose(1, 2)
        key = self.key(x).view(tokens.shape[0], LENGTH, 2, WIDTH // 2).transpose(1, 2)
        scores = (query @ key.transpose(2, 3)).masked_fill(mask[:, None, None] == 0, -1e4)
        mixed = (scores.softmax(3) @ key).transpose(1, 2).flatten(2)
        y = F.gelu(self.up(self.norm(mixed + x))) * mask[..., None]
        return self.fc(torch.tanh(self.pool(y.sum(1))) ** 2)


def inputs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(0, 20, (count, LENGTH)))
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (count, 1))
    return tokens, torch.from_numpy(mask.astype(np.int64))


@functools.cache
def float_model(seed: int) -> Mixer:
    torch.manual_seed(seed)
    return Mixer().eval()


@functools.cache
def _hybrid(seed: int, act_bits: int, first_last: str) -> torch.fx.GraphModule:
    prepared = prepare(
        float_model(seed), inputs(4, seed), act_bits=act_bits, first_last=first_last, host=True
    )
    calibrate(prepared, *inputs(64, seed))
    for layer in quantised_layers(prepared).values():
        layer.assign(torch.arange(len(layer.weight)) % len(Scheme))
    align_scales(prepared)
    return prepared


def hybrid(seed: int, act_bits: int = 4, first_last: str = "same") -> torch.fx.GraphModule:
    """Prepared, calibrated, with all schemes in every layer."""
    return copy.deepcopy(_hybrid(seed, act_bits, first_last))


def exported(prepared: torch.fx.GraphModule, seed: int) -> IntGraph:
    return export(
        prepared,
        inputs(2, seed),
        name="mixer",
        ratio=Ratio(34, 33, 33),
        tile_rows=6,
        class_names=("a", "b", "c"),
    )


def arrays(tensors: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


# Preparation


def test_only_linear_layers_are_quantised_and_readers_share_a_quantiser(seed):
    prepared = hybrid(seed)
    assert partition.is_hybrid(prepared) and not partition.is_hybrid(float_model(seed))
    assert list(quantised_layers(prepared)) == ["query", "key", "up", "pool", "fc"]
    quantisers = {n: m for n, m in prepared.named_modules() if isinstance(m, ActQuantiser)}
    assert list(quantisers) == ["query_input", "up_input", "pool_input", "fc_input"]
    assert all(q.signed and q.bits == 4 for q in quantisers.values())
    assert set(float_model(seed).state_dict()) <= set(prepared.state_dict())


def test_quantisers_off_is_the_float_model(seed):
    prepared, x = hybrid(seed), inputs(5, seed)
    with float_mode(prepared):
        assert torch.equal(prepared(*x), float_model(seed)(*x))
    assert not torch.equal(prepared(*x), float_model(seed)(*x))


def test_lopsided_inputs_get_a_lopsided_zero_point(seed):
    """GELU gives little below 0; tanh squared nothing, so that one step below must do."""
    prepared = hybrid(seed, act_bits=8)
    assert prepared.get_submodule("query_input").zero_point in range(96, 176)
    assert prepared.get_submodule("fc_input").zero_point == 16
    assert prepared.get_submodule("pool_input").zero_point < 96


@pytest.mark.parametrize(("first_last", "bits"), [("same", [4, 4, 4, 4]), ("w8a8", [8, 4, 4, 8])])
def test_bits_of_the_first_and_the_last_layer(seed, first_last, bits):
    prepared = hybrid(seed, first_last=first_last)
    found = [m.bits for m in prepared.modules() if isinstance(m, ActQuantiser)]
    assert found == bits
    assert [
        s.bits for s in exported(prepared, seed).header.tensors if s.name.endswith("_input")
    ] == bits


def test_trains(seed):
    prepared = hybrid(seed).train()
    x, labels = inputs(16, seed), torch.arange(16) % 3
    optimiser = torch.optim.Adam(prepared.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(prepared(*x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            nn.Softmax(1),
            "'the output': softmax is not supported: with operations on the host a linear",
        ),
        (nn.ReLU(), "a linear layer must come last"),
    ],
)
def test_a_linear_layer_must_come_last(seed, end, message):
    class Ended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.end = float_model(seed), end

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return self.end(self.model(tokens, mask))

    with pytest.raises(UnsupportedLayer, match=message) as error:
        prepare(Ended(), inputs(2, seed), host=True)
    assert "\n" not in str(error.value)


def test_operations_in_place_are_refused():
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin().exp_()

    with pytest.raises(UnsupportedLayer, match="layer '0': exp_ is not supported: it works in pla"):
        prepare(nn.Sequential(InPlace(), nn.Linear(3, 2)), torch.rand(2, 3), host=True)


# The partition


def test_segments_hold_everything_between_two_rows_of_layers(seed):
    graph = exported(hybrid(seed), seed)
    order = [node.name for node in graph.nodes]
    assert order == ["host0", "query", "key", "host1", "up", "host2", "pool", "host3", "fc"]
    first, attention, activation, last = (n for n in graph.nodes if isinstance(n, Host))
    assert first.inputs == ("tokens", "mask") and first.outputs == ("query_input",)
    assert {"embedding", "eq"} <= set(first.ops) and "dropout" not in first.ops
    stream, mask, other_mask = first.keeps  # for the sum, the softmax and the product
    assert set(attention.inputs) == {"query", "key", stream, mask}
    assert {"matmul", "softmax", "layer_norm"} <= set(attention.ops)
    assert set(activation.inputs) == {"up", other_mask}
    assert activation.ops == ("gelu", "mul", "sum")
    assert last.inputs == ("pool",) and last.ops == ("tanh", "pow") and not last.keeps
    assert graph.header.input is None and graph.header.host_inputs == ("tokens", "mask")
    assert [
        (n.op, graph.tensor(n.output).shape) for n in graph.nodes if not isinstance(n, Host)
    ] == [
        ("conv", (8, 6, 1)),
        ("conv", (8, 6, 1)),
        ("conv", (12, 6, 1)),
        ("linear", (5, 1, 1)),
        ("linear", (3, 1, 1)),
    ]


@pytest.mark.parametrize("act_bits", [4, 8])
def test_integers_of_torch_and_golden_model_are_equal(seed, act_bits, tmp_path):
    prepared = hybrid(seed, act_bits=act_bits)
    graph, x = exported(prepared, seed), inputs(40, seed + 1)
    graph.save(tmp_path / "net")
    graph = IntGraph.load(tmp_path / "net")
    runner = partition.HostRunner(prepared)
    logits = verify.verify(graph, arrays(x), batch=16, host=runner)
    assert logits.shape == (40, 3)
    with torch.no_grad():
        fake = prepared.eval()(*x).numpy()
    assert np.array_equal(fake, np.ldexp(logits, -graph.layers["fc"].shift).astype(np.float32))
    prepared.train()  # the arithmetic of training, without dropout
    for module in prepared.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        trained = prepared(*x).numpy()
    close = np.abs(trained - fake).max(1) < 1e-5
    assert close.mean() >= 0.9  # a code at a tie may round the other way
    assert (trained != fake).any()


def test_evaluation_has_the_gradients_of_training(seed):
    prepared, x = hybrid(seed).eval(), inputs(8, seed)
    gradients = []
    for training in (False, True):
        for layer in quantised_layers(prepared).values():
            layer.train(training)
        prepared.zero_grad()
        prepared(*x).square().sum().backward()
        gradients.append([p.grad.clone() for p in prepared.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_row_beyond_the_multiplier_is_named(seed):
    prepared, x = hybrid(seed).eval(), inputs(2, seed)
    prepared.get_submodule("up").alpha.data[3] = 1e6
    for use in (
        lambda: prepared(*x),
        lambda: exported(prepared, seed),
        lambda: align_scales(prepared),
    ):
        with pytest.raises(ExportError, match=r"^layer 'up': multiplier .* is too large for 16"):
            use()


def test_aligned_rows_have_exact_multipliers(seed):
    prepared = hybrid(seed)
    graph = exported(prepared, seed)
    for name, layer in quantised_layers(prepared).items():
        arrays = graph.layers[name]
        source = graph.tensor(next(n.input for n in graph.nodes if n.name == name))
        denominator = np.array([Scheme(s).denominator for s in arrays.scheme])
        real = layer.alpha.detach().double().numpy() / denominator * source.scale
        exact = np.ldexp(arrays.multiplier, -arrays.shift)
        np.testing.assert_allclose(real, exact, rtol=2**-23)  # alpha is a float32
        if name != "fc":
            assert (arrays.multiplier >= 1 << 15).all()
    assert len(set(graph.layers["fc"].shift)) == 1


def test_sums_are_those_of_the_integers_alone(seed):
    """t / 2^S is the layer's float result of the real values of its codes."""
    prepared = hybrid(seed, act_bits=8)
    graph, x = exported(prepared, seed), arrays(inputs(4, seed))
    tensors = golden.run(graph, x, partition.HostRunner(prepared))
    for name, layer in quantised_layers(prepared).items():
        node = next(n for n in graph.nodes if n.name == name)
        source, shift = graph.tensor(node.input), graph.layers[name].shift
        real = source.scale * (tensors[node.input] - source.zero_point).astype(np.float64)
        weight = layer.effective_weight.detach().double().numpy()
        bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()
        expected = np.moveaxis(real, 1, -1) @ weight.T + bias
        got = np.moveaxis(np.ldexp(tensors[name], -shift[:, None, None]), 1, -1)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_runner_keeps_the_model_as_it_was(seed):
    prepared = hybrid(seed)
    graph, x = exported(prepared, seed), arrays(inputs(4, seed))
    runner = partition.HostRunner(prepared)
    before = golden.logits(graph, x, runner)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.zero_()
    prepared.train()
    assert np.array_equal(golden.logits(graph, x, runner), before)


def test_runner_of_another_model_is_refused(seed):
    graph, x = exported(hybrid(seed), seed), arrays(inputs(4, seed))
    other = nn.Sequential(nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 2))
    runner = partition.HostRunner(prepare(other, torch.from_numpy(x[0]), host=True))
    with pytest.raises(ValueError, match=r"^host node 'host0' belongs to the graph of another mod"):
        golden.run(graph, x, runner)


def test_runner_makes_its_constants_on_the_cpu(seed):
    """A model captured on another device names that device in the graph."""
    prepared = hybrid(seed)
    for node in prepared.graph.nodes:
        if node.kwargs.get("device"):
            node.kwargs = {**node.kwargs, "device": torch.device("meta")}
            break
    else:
        pytest.fail("the model has no constant")
    x = arrays(inputs(4, seed))
    golden.run(exported(prepared, seed), x, partition.HostRunner(prepared))


def test_a_row_that_could_leave_the_accumulator_is_refused():
    wide = nn.Linear(300, WIDTH)
    wide.weight.data.fill_(1.0)
    chain = nn.Sequential(nn.LayerNorm(300), wide, nn.Sigmoid(), nn.Linear(WIDTH, 2))
    prepared = prepare(chain, torch.rand(2, 300), act_bits=8, host=True)
    calibrate(prepared, torch.rand(8, 300))
    with pytest.raises(GraphError, match=r"^node '1' can reach 9715500, the accumulator has 24"):
        export(prepared, torch.rand(2, 300), name="wide", ratio=Ratio(0, 0, 100), tile_rows=8)
