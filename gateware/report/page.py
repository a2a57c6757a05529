# SPDX-License-Identifier: Apache-2.0
"""Report of a build as one HTML page that needs no network.

python -m gateware.report.page build/zc706     writes build/zc706/report.html from its report.json

``gateware.build`` and ``sim.run`` write the page, too. Where the folder has ``simulation.json``,
which ``sim.run`` writes, cycles are those measured there, and it says what they waited for.
"""

import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2

from gateware.flow.clock import mhz
from gateware.flow.verilog import MODULE
from gateware.report import drawings
from gateware.report.document import Report, Simulation, parse
from gateware.report.drawings import CELL, LANES_PER_LINE, SCHEMES
from ir import cli, palette
from ir.cli import UserError

PAGE = "report.html"
REPORT = "report.json"
SIMULATION = "simulation.json"
TEMPLATE = Path(__file__).with_name("page.html")
TITLES = dict(zip(SCHEMES, ("PoT-4", "Fixed-4", "Fixed-8"), strict=True))
#: Colours of the schemes, as in every plot.
COLOURS = dict(zip(SCHEMES, (palette.POT4, palette.FIXED4, palette.FIXED8), strict=True))
#: What most of a run may go to, by the name of the counter.
WAITS = {
    "ARRAY_CYCLES": "keep the array at work: it binds",
    "STALL_DRAIN": "wait for outputs to leave the array: the drain binds",
    "STALL_LOAD": "wait for weights or activations from memory: memory binds",
    "STALL_EXECUTE": "wait for the layer before: dependencies bind",
    "STALL_STORE": "wait for results to reach memory: stores bind",
    "STALL_FETCH": "wait for instructions: fetching binds",
}
#: Counters that the page explains, by the name of their register.
STALLS = {
    "ARRAY_CYCLES": "array at work",
    "STALL_DRAIN": "array waits for the drain",
    "STALL_LOAD": "array waits for weights or activations from memory",
    "STALL_EXECUTE": "array waits for the layer before",
    "STALL_STORE": "array waits for results to reach memory",
    "STALL_FETCH": "array waits for instructions",
}


def page(report: dict, simulation: dict | None = None) -> str:
    """HTML page for what :func:`gateware.report.summary.report` returned.

    ``simulation`` is the document of ``sim.run --json`` for the same build.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    program, lanes = report.get("program"), report["lanes"]
    layers = program["layers"] if program else []
    how = program["cycles"]["how"] if program else "estimated"
    if program and simulation and simulation.get("layers"):
        layers, how = _simulated(layers, simulation, report["macs_per_cycle"]), "measured"
    try:
        template = environment.get_template(TEMPLATE.name)
    except jinja2.TemplateNotFound as error:  # an OSError, which means the user's folder elsewhere
        raise RuntimeError(f"{TEMPLATE} is missing: the installation is not complete") from error
    return template.render(
        title=f"Accelerator for {report['title']}",
        part=report["part"],
        clock=mhz(report["clock_hz"]),
        config_digest=report["config_digest"],
        program=program,
        verdict=_verdict(report, simulation) if program else [],
        colours=COLOURS,
        total=_total(layers) if layers else None,
        tiles=_tiles(report, simulation),
        k=report["config"]["bus_bits"] // 4,
        pixels=report["config"]["pixels"],
        macs_per_cycle=report["macs_per_cycle"],
        lanes=drawings.array(lanes),
        array_width=CELL * min(LANES_PER_LINE, sum(lanes.values())),
        array_height=CELL * math.ceil(sum(lanes.values()) / LANES_PER_LINE),
        resources=[_resource(name, row) for name, row in report["resources"].items()],
        modules=[
            {
                "name": module["name"],
                "instances": module["instances"],
                "used": [f"{module[name]:,}" for name in report["resources"]],
            }
            for module in report["modules"]
        ],
        timing=report["clock"]["sentence"],
        timing_how="measured" if report["routed_hz"] else None,
        power=_power(report["routing"]),
        layers=[_layer(row, layers) for row in layers if row["cycles"] or row["macs"]],
        cycles_how=how,
        graph=drawings.graph(program["layers"]) if program and layers else None,
        roofline=drawings.roofline(report, layers) if layers else None,
        stalls=_stalls(simulation["counters"])
        if simulation and simulation.get("counters")
        else None,
    )


def _simulated(layers: list[dict], simulation: dict, macs_per_cycle: int) -> list[dict]:
    """``layers`` with their measured cycles; moments before the first are a row of their own."""
    images = simulation.get("batch", 1)
    measured = {row["layer"]: row["cycles"] / images for row in simulation["layers"]}
    known = {layer["name"] for layer in layers}
    empty = dict.fromkeys(("input", "output", "residual", "schemes"))
    before = [
        {**empty, "name": name, "op": "from memory", "shape": (), "weight_bytes": 0, "macs": 0}
        | {"cycles": round(cycles), "utilisation": 0.0, "input": "", "output": ""}
        for name, cycles in measured.items()
        if name not in known
    ]
    found = []
    for layer in layers:
        cycles = round(measured.get(layer["name"], 0))
        use = layer["macs"] / (cycles * macs_per_cycle) if cycles else 0.0
        found.append({**layer, "cycles": cycles, "utilisation": use})
    return [*before, *found]


def _total(layers: list[dict]) -> dict:
    sums = {key: sum(layer[key] for layer in layers) for key in ("macs", "weight_bytes", "cycles")}
    return {key: f"{value:,}" for key, value in sums.items()}


def _verdict(report: dict, simulation: dict | None) -> list[str]:
    """Sentences that matter first: bits, cycles, time, what binds, accuracy."""
    program, clock = report["program"], report["clock"]["times"][0]
    cycles, how = program["cycles"]["total"], program["cycles"]["how"]
    lines = []
    if simulation:
        cycles, how = simulation["cycles_per_image"], "measured"
    if simulation and simulation.get("equal") is not None:
        exact = simulation["equal"] == simulation["images"]
        lines.append(
            f"{'Bit-exact' if exact else 'NOT bit-exact'}: {simulation['equal']} of "
            f"{simulation['images']} simulated inputs equal {simulation['reference']}"
        )
    else:
        lines.append("Not simulated yet: run python -m sim.run on this folder")
    lines.append(
        f"{cycles:,} cycles ({how}), {1e3 * cycles / clock['hz']:.3g} ms at {mhz(clock['hz'])} MHz "
        f"(clock {clock['basis']})"
    )
    if simulation and simulation.get("counters"):
        waits = {name: sum(simulation["counters"].get(name, [0])) for name in WAITS}
        worst, total = max(waits, key=lambda name: waits[name]), simulation["counters"]["CYCLES"]
        share = waits[worst] / sum(total)
        lines.append(f"{100 * share:.0f} % of the cycles {WAITS[worst]}")
    if report.get("accuracy"):
        kinds = ", ".join(f"{kind} {100 * v:.2f} %" for kind, v in report["accuracy"].items())
        lines.append(f"Accuracy on the test set: {kinds}")
    return lines


def _tiles(report: dict, simulation: dict | None) -> list[dict]:
    tiles = [{"label": "MACs per cycle", "value": report["macs_per_cycle"], "how": None}]
    if report.get("program") is None:
        return tiles
    program = report["program"]
    cycles, how = program["cycles"]["total"], program["cycles"]["how"]
    if simulation:
        cycles, how = simulation["cycles_per_image"], "measured"
    macs = sum(layer["macs"] for layer in program["layers"])
    clocks, batch = report["clock"]["times"], program["batch"]
    seconds = cycles / clocks[0]["hz"]
    whole, each = (
        ("a sequence, without the host", "a sequence")
        if program["hybrid"]
        else ((f"{batch} images", "an image, its share") if batch > 1 else ("an image", "an image"))
    )
    return [
        *(
            {
                "label": f"latency of {whole} at {mhz(clock['hz'])} MHz, {clock['basis']}",
                "value": f"{1e3 * batch * cycles / clock['hz']:.3g} ms",
                "how": how,
            }
            for clock in clocks
        ),
        {"label": f"cycles of {each}", "value": f"{cycles:,}", "how": how},
        {
            "label": f"throughput at {mhz(clocks[0]['hz'])} MHz",
            "value": f"{2e-9 * macs / seconds:.1f} GOP/s",
            "how": how,
        },
        {"label": f"work of {each.split(',')[0]}", "value": f"{_short(macs)} MACs", "how": None},
        {
            "label": "use of the array",
            "value": f"{100 * macs / (cycles * report['macs_per_cycle']):.1f} %",
            "how": how,
        },
        *tiles,
    ]


def _resource(name: str, row: dict) -> dict:
    share = row["used"] / row["limit"]
    return {
        "name": name.upper(),
        "used": f"{row['used']:,}",
        "limit": f"{row['limit']:,}",
        "share": share,
        "percent": f"{100 * share:.1f}",
        "width": f"{min(100, 100 * share):.1f}",
        "how": row["how"],
    }


def _power(routing: dict | None) -> str | None:
    return routing["power"]["sentence"] if routing and routing["power"] else None


def _layer(layer: dict, layers: list[dict]) -> dict:
    schemes = layer["schemes"] or []
    most = max(other["cycles"] for other in layers)
    return {
        "name": layer["name"],
        "op": layer["op"],
        "shape": layer["shape"],
        "runs": drawings.runs(schemes),
        "rows": max(1, len(schemes)),
        "scheme_counts": ", ".join(
            f"{schemes.count(number)} {TITLES[name]}" for number, name in enumerate(SCHEMES)
        ),
        "macs": f"{layer['macs']:,}" if layer["macs"] else "",
        "weights": f"{layer['weight_bytes']:,} B" if layer["weight_bytes"] else "",
        "cycles": f"{layer['cycles']:,}" if layer["cycles"] else "",
        "width": f"{100 * layer['cycles'] / most:.1f}" if most else "0",
        "utilisation": f"{100 * layer['utilisation']:.1f} %" if layer["macs"] else "",
    }


def _stalls(counters: dict[str, list[int]]) -> list[dict]:
    total = round(sum(counters["CYCLES"]) / len(counters["CYCLES"]))
    means = {name: round(sum(values) / len(values)) for name, values in counters.items()}
    rows = [(title, means[name]) for name, title in STALLS.items() if name in means]
    rows.append(("everything else", total - sum(cycles for _, cycles in rows)))
    return [
        {"name": name, "cycles": f"{cycles:,}", "percent": f"{100 * cycles / total:.1f}"}
        for name, cycles in rows
    ]


def _short(value: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return str(value)


def build_digest(folder: Path) -> str:
    """Digest of the Verilog and the programs of a build folder: what a simulation is of.

    Raises OSError.
    """
    digest = hashlib.blake2s()
    for path in sorted([*folder.glob(f"{MODULE}.v"), *folder.glob("**/program.bin")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write(folder: Path) -> Path:
    """Report page of a build folder, written into it; returns its path. Raises UserError."""
    try:
        text = (folder / REPORT).read_text()
    except OSError as error:
        raise UserError(
            f"no report in {folder} ({error.strerror}): run python -m gateware.build first"
        ) from error
    report = parse(Report, text, folder / REPORT, "python -m gateware.build")
    simulation = None
    if (folder / SIMULATION).is_file():
        text = (folder / SIMULATION).read_text()
        command = f"python -m sim.run {folder}"
        simulation = parse(Simulation, text, folder / SIMULATION, command)
        if simulation["build"] not in (None, build_digest(folder)):
            simulation = None  # of an accelerator or a program that was here before
    html = page(report, simulation)
    try:
        (folder / PAGE).write_text(html)
    except OSError as error:
        raise UserError(f"cannot write {folder / PAGE}: {error.strerror}") from error
    return folder / PAGE


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m gateware.report.page", description=__doc__)
    p.add_argument("build", type=Path, metavar="BUILD", help="folder that gateware.build wrote")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    cli.give(str(write(parser().parse_args(argv).build)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
