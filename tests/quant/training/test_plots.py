# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: that they show what is in its files."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from ir import cli
from ir.numerics import Scheme, weight_values
from quant import train
from quant.training import plots


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    argv = [
        "--subset",
        "64",
        "--batch-size",
        "16",
        "--float-epochs",
        "2",
        "--epochs",
        "1",
        "--width",
        "4",
        "--no-plots",
        "--no-tensorboard",
        "--out",
        str(out),
        "-q",
    ]
    assert cli.run(train.main, argv) == 0
    return out / "digits"


def test_curves_show_both_stages() -> None:
    metrics = [
        {
            "stage": "float" if i < 3 else "quantised",
            "loss": str(1 / (i + 1)),
            "train_accuracy": str(i / 10),
            "test_accuracy": str(i / 20),
        }
        for i in range(5)
    ]
    loss, accuracy = plots.curves(metrics).axes
    drawn = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in (loss, accuracy)
        for line in axes.lines
    }
    assert drawn["before quantisation"] == ([1, 2, 3], [1, 1 / 2, 1 / 3])
    assert drawn["quantised"] == ([4, 5], [1 / 4, 1 / 5])
    assert drawn["training, quantised"] == ([4, 5], [0.3, 0.4])
    assert drawn["test, before quantisation"] == ([1, 2, 3], [0, 0.05, 0.1])
    assert len(plots.curves(metrics[:3]).axes[0].lines) == 1  # a float run has one stage


def test_map_has_the_colour_of_every_row() -> None:
    names = {"a": ["POT4", "FIXED8", "POT4"], "b": ["FIXED4", "POT4"]}
    axes = plots.scheme_map(
        [{"layer": layer, "scheme": scheme} for layer, rows in names.items() for scheme in rows]
    ).axes[0]
    for image, rows in zip(axes.images, names.values(), strict=True):
        colours = [to_hex(colour) for colour in image.to_rgba(image.get_array())[0]]
        assert colours == [plots.SCHEMES[scheme][1] for scheme in rows]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "PoT-4",
        "Fixed-4",
        "Fixed-8",
    ]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["3 rows = 2 : 0 : 1", "2 rows = 1 : 1 : 0"]


def test_map_of_many_rows_is_thinned() -> None:
    table = [{"layer": "a", "scheme": "FIXED4" if i % 2 else "POT4"} for i in range(9000)]
    assert plots.scheme_map(table).axes[0].images[0].get_array().shape == (1, plots.MAX_ROWS)


def test_weights_with_the_levels_of_their_scheme(seed) -> None:
    rng = np.random.default_rng(seed)
    state = {
        "small.weight": np.ones((1, 2)),
        "small.alpha": np.ones(1),
        "small.scheme": np.ones(1),
        "big.weight": rng.normal(size=(9, 2, 3, 3)),
        "big.alpha": np.full(9, 2.0),
        "big.scheme": np.array([0, 1, 1, 1, 1, 1, 2, 2, 3]),
    }
    figure = plots.weights_on_levels(state)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == [
        "PoT-4, row 0",
        "Fixed-4, row 1",
        "Fixed-4, row 3",
        "Fixed-4, row 5",
        "Fixed-8, row 6",
        "Fixed-8, row 7",
        "APoT-4, row 8",
    ]
    for title, axes in panels.items():
        row = int(title.split()[-1])
        values = state["big.weight"][row].ravel() / 2
        counts, _ = np.histogram(values.clip(-1.25, 1.25), np.linspace(-1.25, 1.25, 51))
        assert [bar.get_height() for bar in axes.patches[:50]] == list(counts)
    levels = [segment[0][0] for segment in panels["PoT-4, row 0"].collections[0].get_segments()]
    values = weight_values(Scheme.POT4)
    np.testing.assert_array_equal(levels, values / values.max())
    assert plots.weights_on_levels({"conv.weight": np.ones((1, 1))}) is None


def test_command_draws_a_run(run, capsys) -> None:
    assert cli.run(plots.main, [str(run)]) == 0
    names = capsys.readouterr().out.split()
    assert names == [str(run / f"plots/{name}.png") for name in ("curves", "schemes", "weights")]
    for name in names:
        picture = imread(name)[..., :3]
        assert picture.shape[1] > 800 and picture.std() > 0.05  # not blank


def test_float_run_and_unfinished_run(run, tmp_path, capsys) -> None:
    folder = tmp_path / "part.partial"
    folder.mkdir()
    assert cli.run(plots.main, [str(folder)]) == 2
    assert "no run" in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    assert cli.run(plots.main, [str(folder)]) == 2
    assert "has nothing to draw yet" in capsys.readouterr().err
    (folder / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes())
    assert cli.run(plots.main, [str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}/plots/curves.png\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", b"\xff"),
        ("metrics.csv", b"stage,epoch,loss\nfloat,1,0.5\n"),
        ("schemes.csv", b"layer,row,scheme\nconv1,0,POT5\n"),
        ("schemes.csv", b"layer\nconv1\n"),
    ],
)
def test_damaged_table_is_one_line(name, content, run, tmp_path, capsys) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    (tmp_path / name).write_bytes(content)
    assert cli.run(plots.main, [str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"error: {tmp_path / name} is damaged; only training "
        "writes it again\n"
    )
