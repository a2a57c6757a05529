# SPDX-License-Identifier: Apache-2.0
"""Attacks: short ones here, and what they would find is found."""

import random
import sys
import types
from pathlib import Path

import pytest

from bench.random_networks import network, outcome
from bench.soak import Outcome, Verdict, command_lines, files, networks, worker
from bench.soak.__main__ import main
from bench.soak.files import Target, attack
from bench.soak.mutations import Trap
from bench.soak.records import Records
from ir import cli
from rmsmp.cli import COMMANDS

ROUNDS = 2


def fake(monkeypatch: pytest.MonkeyPatch, case) -> None:
    """An attack called files whose cases are ``case``."""
    module = types.ModuleType("bench.soak.files")
    module.__spec__ = files.__spec__
    monkeypatch.setattr(module, "case", case, raising=False)
    monkeypatch.setitem(sys.modules, "bench.soak.files", module)


@pytest.mark.filterwarnings("ignore")  # of decoders, about damaged images
@pytest.mark.parametrize(
    "name", [name for name, target in files.targets().items() if not target.slow]
)
def test_no_mutation_is_a_fault(name: str, seed: int, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        rng, folder = random.Random(f"{name} {seed} {number}"), tmp_path / str(number)
        folder.mkdir()
        outcome = attack(name, files.targets()[name], rng, folder)
        assert outcome.verdict != Verdict.FAULT, outcome.reason


@pytest.mark.parametrize("number", range(30))
def test_no_command_line_is_a_fault(number: int, seed: int, tmp_path: Path) -> None:
    outcome = command_lines.case(seed, number, tmp_path)
    assert outcome.verdict != Verdict.FAULT, outcome.reason


def test_every_command_is_attacked(seed: int) -> None:
    """Those of ``rmsmp`` at least, and what a parser takes is what is given."""
    assert {module for module, _ in COMMANDS.values()} <= set(command_lines.COMMANDS)
    parser = cli.Parser(prog="p")
    parser.add_argument("--rows", type=cli.whole(1), metavar="N")
    rng = random.Random(seed)
    made = [command_lines.arguments(rng, parser) for _ in range(50)]
    assert any(must_fail for _, must_fail in made) and not all(must_fail for _, must_fail in made)


def test_a_network_that_fails_is_made_smaller() -> None:
    """Down to the step that fails."""
    number = next(n for n in range(100) if "max pool" in network(n)[0].names[2:])
    net = network(number)[0]
    small = networks.shrunk(net, lambda found: "max pool" in found.names)
    assert "max pool" in small.names and len(small.names) < len(net.names)
    assert networks.without(small, small.names.index("max pool")) is not small
    assert outcome(number, instead=small)[0] in ("equal", "refused")


def test_networks_are_an_attack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = iter((("equal", ""), ("refused", "why"), ("FAULT", "differs"), *[("equal", "")] * 99))
    monkeypatch.setattr(networks, "outcome", lambda *_: next(found))
    verdicts = [networks.case(1, number, tmp_path).verdict for number in range(3)]
    assert verdicts == [Verdict.EQUAL, Verdict.REFUSED, Verdict.FAULT]


def reads(what) -> Target:
    return Target(lambda: {"x": b"1"}, lambda rng, found: "nothing", what, (ValueError,))


def escape(folder: Path) -> None:
    (folder.parent / "elsewhere").touch()


def look_outside(folder: Path) -> None:
    try:
        (folder / "../outside").read_text()
    except OSError as error:
        raise ValueError("no such file") from error


def two_lines(folder: Path) -> None:
    raise ValueError("one\ntwo")


@pytest.mark.parametrize("what", [escape, look_outside, two_lines])
def test_what_a_file_must_not_do(what, seed: int, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    outcome = attack("x", reads(what), random.Random(seed), tmp_path / "own")
    assert outcome.verdict == Verdict.FAULT


def test_what_is_executed_is_a_fault(seed: int, tmp_path: Path) -> None:
    outcome = attack("x", reads(lambda _: Trap().__reduce__()[0]()), random.Random(seed), tmp_path)
    assert (outcome.verdict, "executed" in outcome.reason) == (Verdict.FAULT, True)


def test_right_files_are_no_fault(seed: int, tmp_path: Path) -> None:
    assert (
        attack("x", reads(lambda _: None), random.Random(seed), tmp_path).verdict == Verdict.EQUAL
    )


def test_an_exception_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def case(seed: int, number: int, folder: Path) -> Outcome:
        raise KeyError(f"case {number} of {seed}")

    fake(monkeypatch, case)
    outcome = worker.run_here("files", 7, 3)
    assert outcome.verdict == Verdict.FAULT
    assert "case 3 of 7" in outcome.reason


def test_a_case_that_takes_much_memory_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter((0, worker.MEMORY + 1, worker.MEMORY + 1))
    monkeypatch.setattr(worker, "_peak", lambda: next(sizes))
    fake(monkeypatch, lambda *_: Outcome(Verdict.EQUAL))
    assert "MiB more" in worker.run_here("files", 1, 1).reason


def test_a_process_that_dies_is_the_fault_of_its_case() -> None:
    class Dead:
        exitcode = -11

        def join(self) -> None:
            pass

    class Closed:
        def send(self, number: int) -> None:
            raise BrokenPipeError

    outcome = worker._ask(Closed(), Dead(), 1, 1.0)  # type: ignore[arg-type]
    assert outcome == Outcome(Verdict.FAULT, "its process died, exit code -11")


def test_records_go_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "1.json"
    records = Records.load(path)
    records.add("files", 0, Outcome(Verdict.REFUSED, "x"), 1.0)
    records.add("files", 1, Outcome(Verdict.FAULT, "y"), 2.0)
    records.save()
    again = Records.load(path)
    assert (again.next("files"), again.next("networks"), again.faults()) == (2, 0, 1)
    assert "| files | 2 | 0 | 1 | 1 | 3 |" in again.table()


def test_one_case_again(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    fake(monkeypatch, lambda seed, number, _: Outcome(Verdict.FAULT, f"{seed} {number}"))
    assert main(["--attack", "files", "--seed", "4", "--only", "2"]) == 1
    assert capsys.readouterr().out == "files 2: fault: 4 2\n"
    with pytest.raises(cli.UserError, match="did you mean files"):
        main(["--attack", "fils"])
