# SPDX-License-Identifier: Apache-2.0
"""Modules that are compiled alone: found in the text, and the same simulation with them."""

from sim.backend import harness, hierarchical
from sim.backend.simulators import VERILATOR, find_simulator

TOP = """
module top(input clk, input rst, input [3:0] step, output [3:0] count);
  wire [3:0] half;
  adder first (.clk(clk), .d(step), .q(half));
  adder \\second.one (.clk(clk), .d(half), .q(count));
endmodule
"""
ADDER = """
module adder(input clk, input [3:0] d, output [3:0] q);
  wire [3:0] sum;
  \\adder.plus one (.a(d), .y(sum));
  reg [3:0] r = 0;
  always @(posedge clk) r <= sum;
  assign q = r;
endmodule
module \\adder.plus (input [3:0] a, output [3:0] y);
  assign y = a + 4'd1;
endmodule
module unused(input a);
endmodule
"""


def test_split() -> None:
    """A module goes with what it instantiates; the rest stays where it was."""
    rest, modules = hierarchical.split([TOP, ADDER], ["adder", "missing"])
    assert [module.name for module in modules] == ["adder"]
    assert modules[0].text.count("endmodule") == 2 and "unused" not in modules[0].text
    assert rest[0] == TOP
    assert "module adder(" not in rest[1] and "module unused" in rest[1]


def test_digest_is_of_all_that_matters() -> None:
    def digest(text: str) -> str:
        return hierarchical.split([TOP, text], ["adder"])[1][0].digest

    assert digest(ADDER) == digest(ADDER.replace("unused", "idle"))
    assert digest(ADDER) != digest(ADDER.replace("4'd1", "4'd2"))


def test_no_hierarchical_module() -> None:
    assert hierarchical.split([TOP, ADDER], []) == ([TOP, ADDER], [])


def test_simulation() -> None:
    """The design calls the library, and a second design finds it compiled."""
    simulator = find_simulator(prefer=VERILATOR)
    assert simulator.name == VERILATOR

    def run(top: str) -> None:
        built = harness.build_simulation(
            top,
            toplevel="top",
            extra_verilog=[ADDER],
            optimise=True,
            hierarchical_modules=["adder"],
            simulator=simulator,
        )
        harness.run_bench(
            built, toplevel="top", test_module="sim.benches.hierarchical_bench", simulator=simulator
        )

    run(TOP)
    libraries = list(harness.BUILD_ROOT.glob("adder-*/*.o"))
    times = [file.stat().st_mtime_ns for file in libraries]
    run(TOP + "// another design\n")
    assert libraries and [file.stat().st_mtime_ns for file in libraries] == times
