# SPDX-License-Identifier: Apache-2.0
"""Draw a run: curves of training, the scheme of every row, weights on their levels.

python -m quant.training.plots runs/digits       writes runs/digits/plots/*.png
"""

import csv
import io
import math
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import pydantic
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ir import cli, palette
from ir.numerics import Scheme, weight_values
from quant.models.weights import is_plain
from quant.nn.apot import APOT4, apot4_values
from quant.training.runs import SENSITIVITY, RunFolder

DPI = 150
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
EXAMPLES = 3  #: rows drawn of each scheme
MAX_ROWS = 2048  #: of a layer that are drawn one by one
#: By scheme: name, colour (told apart by colour-blind people, too) and weight values.
SCHEMES = {
    "POT4": ("PoT-4", palette.POT4, lambda: weight_values(Scheme.POT4)),
    "FIXED4": ("Fixed-4", palette.FIXED4, lambda: weight_values(Scheme.FIXED4)),
    "FIXED8": ("Fixed-8", palette.FIXED8, lambda: weight_values(Scheme.FIXED8)),
    "APOT4": ("APoT-4", palette.APOT4, apot4_values),
}
NUMBERS = {int(scheme): scheme.name for scheme in Scheme} | {APOT4: "APOT4"}
DRAWN = ("loss", "train_accuracy", "test_accuracy")  #: columns of metrics.csv
STAGES = {"float": "before quantisation", "quantised": "quantised"}


def curves(metrics: Sequence[dict[str, str]]) -> Figure:
    """Curves of loss, and of accuracy in training and on the test set, over the epochs."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    float_epochs = sum(row["stage"] == "float" for row in metrics)
    for stage, title in STAGES.items():
        rows = [(i, row) for i, row in enumerate(metrics, 1) if row["stage"] == stage]
        if not rows:
            continue
        epochs = [i for i, _ in rows]
        colour = "#56606b" if stage == "float" else SCHEMES["POT4"][1]

        def line(
            axes: Axes,
            key: str,
            label: str,
            style: str,
            rows: list = rows,
            epochs: list = epochs,
            colour: str = colour,
        ) -> None:
            axes.plot(
                epochs,
                [float(row[key]) for _, row in rows],
                style,
                color=colour,
                label=label,
                marker="." if len(rows) < 30 else "",
            )

        line(left, "loss", title, "-")
        line(right, "test_accuracy", f"test, {title}", "-")
        line(right, "train_accuracy", f"training, {title}", ":")
    for axes, title in ((left, "mean training loss"), (right, "accuracy")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if 0 < float_epochs < len(metrics):
            axes.axvline(float_epochs + 0.5, color="0.6", linewidth=0.8, linestyle="--")
    if all(float(row["loss"]) > 0 for row in metrics):
        left.set_yscale("log")  # the quantised stage begins where the float one ended
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
    return figure


def scheme_map(table: Sequence[dict[str, str]]) -> Figure:
    """Layers as bars of their rows, each row in the colour of its scheme.

    Lengths are relative.
    """
    layers: dict[str, list[str]] = {}
    for row in table:
        layers.setdefault(row["layer"], []).append(row["scheme"])
    used = [s for s in SCHEMES if any(s in rows for rows in layers.values())]
    figure = Figure(figsize=(9, 1.1 + 0.24 * len(layers)), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap([SCHEMES[s][1] for s in used])
    for y, rows in enumerate(layers.values()):
        codes = np.array([used.index(s) for s in rows])
        if len(codes) > MAX_ROWS:
            codes = codes[np.linspace(0, len(codes) - 1, MAX_ROWS).astype(int)]
        axes.imshow(
            codes[None],
            cmap=colours,
            vmin=-0.5,
            vmax=len(used) - 0.5,
            aspect="auto",
            interpolation="nearest",
            extent=(0, 1, y + 0.4, y - 0.4),
        )
        shares = " : ".join(f"{rows.count(s)}" for s in used)
        axes.text(
            1.01,
            y,
            f"{len(rows)} rows = {shares}",
            va="center",
            fontsize="small",
            transform=axes.transData,
        )
    axes.set(
        xlim=(0, 1),
        ylim=(len(layers) - 0.4, -0.6),
        xticks=[],
        title="scheme of every weight row, in order",
    )
    axes.set_yticks(range(len(layers)), layers)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.legend(
        handles=[Patch(color=SCHEMES[s][1], label=SCHEMES[s][0]) for s in used],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=len(used),
        frameon=False,
    )
    return figure


def weights_on_levels(state: dict[str, "np.ndarray"]) -> Figure | None:
    """Histograms of ``weight / alpha`` of a few rows of each scheme, with the scheme's levels.

    ``state`` is a state dict of numpy arrays. Rows are from the layer with most weights; None where
    no layer is quantised.
    """
    names = [name.removesuffix(".scheme") for name in state if name.endswith(".scheme")]
    if not names:
        return None
    name = max(names, key=lambda n: state[f"{n}.weight"].size)
    weight = state[f"{name}.weight"].reshape(len(state[f"{name}.weight"]), -1)
    ratio, schemes = weight / state[f"{name}.alpha"][:, None], state[f"{name}.scheme"]
    used = [number for number in NUMBERS if (schemes == number).any()]
    figure = Figure(figsize=(9, 1.9 * len(used) + 0.5), layout="constrained")
    grid = figure.subplots(len(used), EXAMPLES, squeeze=False, sharex=True)
    figure.suptitle(f"weights of rows of {name}, and the levels they are rounded to")
    for line, number in zip(grid, used, strict=True):
        title, colour, values = SCHEMES[NUMBERS[number]]
        levels = values() / values().max()
        rows = np.flatnonzero(schemes == number)
        rows = (
            rows[np.linspace(0, len(rows) - 1, EXAMPLES).astype(int)]
            if len(rows) >= EXAMPLES
            else rows
        )
        for axes, row in zip(line, rows, strict=False):
            axes.hist(
                ratio[row].clip(-1.25, 1.25), np.linspace(-1.25, 1.25, 51), color=colour, alpha=0.75
            )
            axes.set_title(f"{title}, row {row}", fontsize="small")
            if len(levels) < 50:
                if row == rows[0]:
                    axes.plot([], [], ":", color="0.25", label="levels")
                    axes.legend(frameon=False, fontsize="x-small")
                axes.vlines(
                    levels,
                    0,
                    1,
                    color="0.25",
                    linewidth=0.7,
                    linestyle=":",
                    transform=axes.get_xaxis_transform(),
                )
            else:
                axes.axvspan(-1, 1, color="0.25", alpha=0.08, linewidth=0)
                axes.text(
                    0.98,
                    0.9,
                    f"{len(levels)} levels",
                    ha="right",
                    va="top",
                    fontsize="x-small",
                    transform=axes.transAxes,
                )
        for axes in line[len(rows) :]:
            axes.set_axis_off()
        line[0].set_ylabel("weights", fontsize="small")
    for axes in grid[-1]:
        axes.set_xlabel("weight / alpha", fontsize="small")
    return figure


def sensitivity(report: dict[str, Any]) -> Figure:
    """Bars of what layers cost, and would with all rows of one scheme, beside their rows.

    ``report`` is the content of sensitivity.json. Left: squared error of a layer's sums relative to
    their variance; right: the part of each row in it, in the colour of its scheme.
    """
    layers = report["layers"]
    figure = Figure(figsize=(10, 1.4 + 0.24 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(layers))
    left.barh(places, [layer["error"] for layer in layers], color="0.82", label="as assigned")
    for y, layer in enumerate(layers):
        for name in (s for s in SCHEMES if s in layer["schemes"]):
            rows = [
                row
                for row, scheme in zip(layer["rows"], layer["schemes"], strict=True)
                if scheme == name and row > 0
            ]
            right.plot(rows, [y] * len(rows), "|", color=SCHEMES[name][1], alpha=0.5)
    for name, (title, colour, _) in SCHEMES.items():
        values = [layer["under"].get(name) for layer in layers]
        if None in values:
            continue
        left.plot(values, places, ".", color=colour, label=f"all rows {title}")
    left.set(title="error of a layer's sums, relative", yticks=list(places))
    left.set_yticklabels([layer["layer"] for layer in layers], fontsize="x-small")
    left.invert_yaxis()
    right.set(title="part of each row in it")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


def draw(run: RunFolder) -> list[str]:
    """Export of the figures of what ``run`` has to its folder ``plots``; returns their names."""
    figures = {}
    if metrics := read(run, "metrics.csv", _check_metrics):
        figures["curves"] = curves(metrics)
    if table := read(run, "schemes.csv", lambda row: (SCHEMES[row["scheme"]], row["layer"])):
        figures["schemes"] = scheme_map(table)
    if (run / SENSITIVITY).is_file():
        figures["sensitivity"] = sensitivity(read_sensitivity(run))
    if (run / "quantised.pt").is_file():
        figures["weights"] = weights_on_levels(read_weights(run))
    with run.writing():
        (run / "plots").mkdir(exist_ok=True)
    for name, figure in figures.items():
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        run.replace(f"plots/{name}.png", buffer.getbuffer())
    return [f"plots/{name}.png" for name in figures]


def read(
    run: RunFolder, name: str, check: Callable[[dict[str, str]], object]
) -> list[dict[str, str]]:
    """Lines of a table, none of one that is missing.

    ``check`` raises for a damaged line, which becomes a UserError.
    """
    if not (run / name).is_file():
        return []
    try:
        with (run / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            check(row)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise cli.UserError(f"{run / name} is damaged; only training writes it again") from error
    return rows


def _check_metrics(row: dict[str, str]) -> None:
    """Raise ValueError or KeyError for a line of metrics that cannot be drawn."""
    if row["stage"] not in STAGES or not all(math.isfinite(float(row[key])) for key in DRAWN):
        raise ValueError("no metrics")


class _Layer(pydantic.BaseModel):
    layer: str
    error: Finite
    rows: list[Finite]
    schemes: list[str]
    under: dict[str, Finite]


class _Sensitivity(pydantic.BaseModel):
    layers: Annotated[list[_Layer], pydantic.Field(min_length=1)]


def read_sensitivity(run: RunFolder) -> dict[str, Any]:
    """Content of sensitivity.json; raises UserError for a damaged file."""
    path = run / SENSITIVITY
    try:
        report = _Sensitivity.model_validate_json(path.read_bytes())
        for layer in report.layers:
            if len(layer.rows) != len(layer.schemes) or set(layer.schemes) - set(SCHEMES):
                raise ValueError("rows")
    except ValueError as error:
        raise cli.UserError(f"{path} is damaged: run python -m quant.calibrate again") from error
    return report.model_dump()


def read_weights(run: RunFolder) -> dict[str, np.ndarray]:
    """Arrays of quantised.pt by name; raises UserError for a damaged file."""
    state = run.load_state("quantised.pt")["model"]
    names = [name.removesuffix(".scheme") for name in state if str(name).endswith(".scheme")]
    parts = [state.get(f"{name}.{part}") for name in names for part in ("scheme", "weight")]
    named = all(isinstance(name, str) for name in state)
    if not named or not all(map(is_plain, [*state.values(), *parts])):
        raise cli.UserError(f"{run / 'quantised.pt'} is damaged: it holds no network")
    return {name: value.numpy() for name, value in state.items()}


def parser() -> cli.Parser:
    """Command line of ``python -m quant.training.plots``."""
    p = cli.Parser(prog="python -m quant.training.plots", description=__doc__)
    p.add_argument(
        "run",
        nargs="?",
        default="runs/latest",
        metavar="RUN",
        help="folder of the run, also of an unfinished one (default: %(default)s)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; raises UserError."""
    path = parser().parse_args(argv).run
    run = RunFolder.reopen("runs", path)
    names = draw(run)
    if not names:
        raise cli.UserError(f"{run.path} has nothing to draw yet")
    for name in names:
        cli.give(str(run / name))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
