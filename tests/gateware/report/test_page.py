# SPDX-License-Identifier: Apache-2.0
"""The page of a build: what it says, and that a browser draws it without a network."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageColor
import pytest

import boards
from gateware.arch.config import AccelConfig
from gateware.arch.results import Power, ToolReport
from gateware.compiler.hybrid import compile_all
from gateware.report import page
from gateware.report.summary import report
from ir import palette
from ir.cli import UserError
from ir.ratio import Ratio
from tests.helpers.graphs import residual_graph

CONFIG = AccelConfig.from_ratio(Ratio(50, 30, 20), 8)
SIMULATION = {
    "cycles_per_image": 4000,
    "counters": {
        "CYCLES": [3999, 4001],
        "ARRAY_CYCLES": [1000, 1000],
        "STALL_DRAIN": [500, 502],
        "STALL_LOAD": [2000, 2000],
        "READ_BEATS": [1, 1],
    },
}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def built(measured: ToolReport | None = None, *, network: bool = True) -> dict:
    graph = residual_graph(1)
    compiled = compile_all(graph, CONFIG) if network else []
    document = report(
        boards.get("zedboard"), CONFIG, graph if network else None, compiled, measured
    )
    return json.loads(json.dumps(document))


class Page(html.parser.HTMLParser):
    """Balanced tags, texts, and everything that a browser would fetch."""

    VOID = {"meta", "br", "rect", "path", "line", "circle", "polyline", "link", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.fetched += [
            attributes[name] for name in ("src", "href", "xlink:href", "data") if name in attributes
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"


def words(page: Page) -> str:
    return re.sub(r"\s+", " ", page.text)


def test_page_is_complete_and_self_contained() -> None:
    document = built()
    text = page.page(document)
    drawn = Page(text)
    assert drawn.fetched == []
    assert "url(" not in text and "@import" not in text and "<script" not in text
    said = words(drawn)
    for layer in document["program"]["layers"]:
        assert layer["name"] in said
    for row in document["resources"].values():
        assert f"{row['used']:,} {row['limit']:,}" in said
    assert "measured" not in said
    assert "nothing was routed" in said
    assert len([1 for tag, a in drawn.tags if tag == "rect" and a.get("width") == "15"]) == 8


def test_figures_of_the_layers() -> None:
    document = built()
    layers = {layer["name"]: layer for layer in document["program"]["layers"]}
    cycles = [layer["cycles"] for layer in layers.values()]
    assert sum(cycles) <= document["program"]["cycles"]["total"]
    graph = residual_graph(1)
    for node in graph.nodes:
        if node.name not in graph.layers:
            continue
        layer, values = layers[node.name], graph.layers[node.name].values
        _, height, width = graph.tensor(node.output).shape
        assert layer["macs"] == values.size * height * width
        assert layer["schemes"] == graph.layers[node.name].scheme.tolist()
        assert 0 < layer["utilisation"] <= 1
        assert layer["utilisation"] == pytest.approx(
            layer["macs"] / layer["cycles"] / CONFIG.macs_per_cycle
        )
        assert values.size / 2 - 1 <= layer["weight_bytes"] <= values.size
    assert document["bus_bytes_per_cycle"] == 8
    assert {layer["residual"] for layer in layers.values()} > {None}


def test_measured_figures_are_marked() -> None:
    power = Power(total_w=2.1, dynamic_w=1.9, static_w=0.2, confidence="Low")
    cells = {"lut": 1000, "ff": 900, "dsp48e1": 24, "bram36": 30.5}
    measured = ToolReport(cells, 0.5, power=power, tool="Vivado 2023.2")
    drawn = Page(page.page(built(measured), SIMULATION))
    said = words(drawn)
    assert "Routed for up to 105.26 MHz; 100 MHz asked for. measured" in said
    assert "at 100 MHz, routed (Vivado WNS)" in said
    assert "Power 2.1 W: 1.9 W dynamic, 0.2 W static (estimated by Vivado 2023.2" in said
    assert "BRAM36 30.5 140 21.8 % measured" in said
    assert "cycles of an image 4,000 measured" in said
    for row in (
        "array at work 1,000 25.0 %",
        "array waits for the drain 501 12.5 %",
        "array waits for weights or activations from memory 2,000 50.0 %",
        "everything else 499 12.5 %",
    ):
        assert row in said


def test_figures_of_several_images_and_of_a_host() -> None:
    document = built()
    document["program"]["batch"] = 4
    said = words(Page(page.page(document, SIMULATION)))
    for words_said in (
        "latency of 4 images at 100 MHz, assumed 0.16 ms measured",
        "cycles of an image, its share 4,000 measured",
        "work of an image",
    ):
        assert words_said in said
    document["program"] |= {"batch": 1, "hybrid": True}
    assert "latency of a sequence, without the host" in words(Page(page.page(document)))


def test_accelerator_without_a_network() -> None:
    drawn = Page(page.page(built(network=False)))
    assert "Layers" not in words(drawn)
    assert "Resources of the device" in words(drawn)


def test_names_are_escaped() -> None:
    document = built()
    document["program"]["layers"][0]["name"] = "<script>alert(1)</script>"
    assert "<script" not in page.page(document)


def test_folders_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no report in .*: run python -m gateware.build first"):
        page.write(tmp_path)
    for damage in ("", "[]", "{}", '{"board": "zedboard"}'):
        (tmp_path / "report.json").write_text(damage)
        with pytest.raises(
            UserError, match=r"report\.json is damaged \(.*\): run python -m gateware.build again"
        ):
            page.write(tmp_path)


def test_a_damaged_simulation(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(built()))
    for damage in ({}, SIMULATION | {"counters": {"CYCLES": [0]}}, {"cycles_per_image": 0}):
        (tmp_path / "simulation.json").write_text(json.dumps(damage))
        with pytest.raises(UserError, match=r"simulation\.json is damaged .*: run python -m sim"):
            page.write(tmp_path)


@pytest.mark.parametrize("network", [False, True])
def test_what_is_read_draws_what_was_written(tmp_path: Path, network: bool) -> None:
    """The check of a document neither drops nor changes what the page shows."""
    document = built(ToolReport({"lut": 1000, "ff": 900, "dsp48e1": 24, "bram36": 30.5}, 0.5))
    document = document if network else built(network=False)
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert page.write(tmp_path).read_text() == page.page(document)


def test_layers_simulated_one_by_one(tmp_path: Path) -> None:
    """They have no counters of a whole run, and no stalls are shown."""
    (tmp_path / "report.json").write_text(json.dumps(built()))
    (tmp_path / "simulation.json").write_text(json.dumps({"cycles_per_image": 4000}))
    text = page.write(tmp_path).read_text()
    assert "4,000" in text and "array waits for the drain" not in text


def test_our_own_faults_are_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that is missing is no missing report."""
    (tmp_path / "report.json").write_text(json.dumps(built()))
    monkeypatch.setattr(page, "TEMPLATE", tmp_path / "none.html")
    with pytest.raises(RuntimeError, match=r"none\.html is missing: the installation"):
        page.write(tmp_path)


def test_simulation_beside_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(built()))
    assert "python -m sim.run" in page.write(tmp_path).read_text()
    (tmp_path / "simulation.json").write_text(json.dumps(SIMULATION))
    assert "array waits for the drain" in page.write(tmp_path).read_text()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 600])
def test_a_browser_draws_it(tmp_path: Path, width: int) -> None:
    """Every section has ink in the colours of the schemes, and nothing sticks out."""
    (tmp_path / "report.json").write_text(json.dumps(built()))
    path, shot = page.write(tmp_path), tmp_path / "page.png"
    common = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2400",
    ]
    subprocess.run(
        [*common, f"--screenshot={shot}", path.as_uri()],
        check=True,
        timeout=120,
        capture_output=True,
    )
    picture = np.asarray(PIL.Image.open(shot).convert("RGB")).astype(int)
    assert picture.shape[1] == width
    for colour in map(PIL.ImageColor.getrgb, (palette.POT4, palette.FIXED4, palette.FIXED8)):
        near = (abs(picture - colour).sum(2) < 12).sum()
        assert near > 300, colour
    # The ground, left and right of everything.
    for edge in (picture[:, 2], picture[:, -3]):
        assert (abs(edge - (0xF4, 0xF6, 0xF9)).sum(1) < 6).all()
    dumped = subprocess.run(
        [*common, "--dump-dom", path.as_uri()],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    ).stdout
    for section in ("array", "resources", "layers", "graph", "roofline"):
        assert f'id="{section}"' in dumped


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2, 0..1."""
    parts = [value / 255 for value in PIL.ImageColor.getrgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_its_ground(dark: bool) -> None:
    style = page.TEMPLATE.read_text().split("prefers-color-scheme: dark")[dark]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", style))
    for text, ground in (
        ("ink", "panel"),
        ("ink", "ground"),
        ("soft", "panel"),
        ("good", "good-ground"),
        ("guess", "guess-ground"),
    ):
        low, high = sorted((luminance(found[text]), luminance(found[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_measured_layers_and_their_total() -> None:
    """Every layer of the network is drawn and named; the rows of a simulation come in its order."""
    document = built()
    layers = document["program"]["layers"]
    rows = [{"layer": "input", "cycles": 90}] + [
        {"layer": layer["name"], "cycles": 100 + index} for index, layer in enumerate(layers)
    ]
    text = page.page(
        document, SIMULATION | {"layers": rows, "equal": 3, "images": 4, "reference": "PyTorch's"}
    )
    said = words(Page(text))
    total = sum(row["cycles"] for row in rows)
    assert "NOT bit-exact: 3 of 4 simulated inputs" in said
    assert f"{total:,}" in said.partition("total")[2]
    network = text.partition('id="graph"')[2].partition("</svg>")[0]
    assert network.count("<text") == 2 * (1 + len(layers))
    assert network.count("<path") == network.count('"/>') - network.count("<rect")
