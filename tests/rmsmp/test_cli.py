# SPDX-License-Identifier: Apache-2.0
"""The console command: sub-commands are the modules, with the same options."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest

import rmsmp
from ir import cli
from rmsmp import cli as console
from tests.helpers.imports import ROOT

NAMES = sorted(console.COMMANDS)


@pytest.fixture(autouse=True)
def _own_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.Parser, "aliases", {})


@pytest.mark.parametrize("command", NAMES)
def test_options_are_those_of_the_module(command: str, capsys: pytest.CaptureFixture) -> None:
    name, _ = console.COMMANDS[command]
    own = importlib.import_module(name).parser()
    assert own.prog == f"python -m {name}"
    with pytest.raises(SystemExit) as stop:
        cli.run(console.main, [command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: rmsmp {command} ")
    for action in own._actions:
        for option in action.option_strings:
            assert option in said


@pytest.mark.parametrize("command", NAMES)
def test_a_mistake_is_one_line(command: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(console.main, [command, "--nonsense"]) == cli.EXIT_USER_ERROR
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_unknown_command_lists_the_known(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(console.main, ["buld"]) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(name in said for name in NAMES)


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(console.main, []) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in NAMES)


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        console.main(["--version"])
    assert capsys.readouterr().out == f"rmsmp {rmsmp.__version__}\n"


def test_bash_completes(tmp_path, capsys: pytest.CaptureFixture) -> None:
    """Commands, options and choices, by the shell itself."""
    assert cli.run(console.main, ["--print-completion", "bash"]) == 0
    script = tmp_path / "rmsmp.bash"
    script.write_text(capsys.readouterr().out)

    def offered(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_rmsmp; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return subprocess.run(
            ["bash", "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()

    assert sorted(offered("rmsmp", ""))[: len(NAMES)] == NAMES
    assert "--graph" in offered("rmsmp", "build", "--gr")
    assert "layers" in offered("rmsmp", "sim", "--check", "la")


#: Lines for a shell that is started without settings, and what it answers to them.
ASKED = {
    "zsh": (
        'autoload -Uz compinit; compinit -u -D; eval "$(<{script})"; print "${{_comps[rmsmp]}}"',
        ["_shtab_rmsmp"],
    ),
    "fish": (
        'source {script}; complete -C "rmsmp bu"; complete -C "rmsmp build --gra"; '
        'complete -C "rmsmp sim --check la"',
        ["build", "--graph", "layers"],
    ),
}


@pytest.mark.parametrize("shell", console.SHELLS)
def test_completion_of(shell: str, tmp_path) -> None:
    """Commands, options and choices in the script; where the shell is installed, in its answer."""
    script = tmp_path / f"rmsmp.{shell}"
    script.write_text(console.completion(shell))
    assert all(word in script.read_text() for word in [*NAMES, "graph", "layers"])
    program = shutil.which(shell)
    if shell in ASKED and program:
        text, wanted = ASKED[shell]
        quiet = {"zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run(
            [program, *quiet, "-c", text.format(script=script)],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == wanted


@pytest.mark.parametrize(
    ("command", "package", "extra"), [("train", "torch", "train"), ("sim", "cocotb_tools", "sim")]
)
def test_missing_extra_is_named(tmp_path, command: str, package: str, extra: str) -> None:
    """In a fresh interpreter, as on a machine with the plain installation."""
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from rmsmp import cli; sys.argv = ['rmsmp', {command!r}]; sys.exit(cli.start())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == cli.EXIT_USER_ERROR
    assert done.stderr == (
        f"error: this needs {package}, which is not installed: pip install 'rmsmp[{extra}]'\n"
    )
