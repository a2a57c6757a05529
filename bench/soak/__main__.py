# SPDX-License-Identifier: Apache-2.0
"""Attack every part of the project for a while, and say what broke.

python -m bench.soak --minutes 60 --seed 1                 all attacks in turn
python -m bench.soak --minutes 10 --attack files,networks  some
python -m bench.soak --attack files --only 173             one case again, here and now

What was found is kept in build/soak/SEED.json, and the same command goes on from there. Cases run
in other processes: one that dies, hangs or takes too much memory is a fault, and the next goes on.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.soak import ATTACKS, Outcome, Verdict
from bench.soak.records import Records
from bench.soak.worker import available, run_here, slice_of
from ir import cli

SAVED = 50  #: cases after which the records are written
SLICE = 30.0  #: seconds of an attack before the next one's turn


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m bench.soak", description=__doc__)
    p.add_argument("--minutes", type=cli.whole(1), default=10, metavar="M", help="in all")
    p.add_argument("--cases", type=cli.whole(1), metavar="N", help="of each attack, at most")
    p.add_argument("--seed", type=cli.whole(0), default=1, metavar="S", help="of all cases")
    p.add_argument("--attack", default=",".join(ATTACKS), metavar="A,B", help="some of %(default)s")
    p.add_argument("--only", type=cli.whole(0), metavar="N", help="this case of one attack alone")
    p.add_argument("--out", type=Path, default=Path("build/soak"), metavar="DIR")
    return p


def attacks(text: str) -> list[str]:
    """Names of attacks in ``text``, those that are here. Raises UserError."""
    names = text.split(",")
    for name in names:
        if name not in ATTACKS:
            raise cli.UserError(
                f"unknown attack {name!r}; known are {', '.join(ATTACKS)}"
                f"{cli.did_you_mean(name, ATTACKS)}"
            )
    return [name for name in names if available(name)]


def replay(name: str, seed: int, number: int) -> int:
    """Exit code of one case in this process, whose outcome is printed."""
    outcome = run_here(name, seed, number)
    cli.give(f"{name} {number}: {outcome.verdict}: {outcome.reason}")
    return int(outcome.verdict == Verdict.FAULT)


def soak(names: Sequence[str], seed: int, minutes: float, cases: int | None, out: Path) -> Records:
    """Records of all cases of ``names``, those of former calls among them."""
    records = Records.load(out / f"{seed}.json")
    until = time.monotonic() + 60 * minutes
    waiting = list(names)
    while waiting and time.monotonic() < until:
        for name in list(waiting):
            first = records.next(name)
            last = cases if cases is not None else sys.maxsize
            if first >= last:
                waiting.remove(name)
                continue
            ends = until if len(waiting) == 1 else min(until, time.monotonic() + SLICE)
            for number, outcome, seconds in slice_of(name, seed, range(first, last), ends):
                records.add(name, number, outcome, seconds)
                if outcome.verdict == Verdict.FAULT:
                    _tell(name, seed, number, outcome)
                if number % SAVED == 0:
                    records.save()
            records.save()
    return records


def _tell(name: str, seed: int, number: int, outcome: Outcome) -> None:
    cli.say(f"{name} {number}: FAULT: {outcome.reason}")
    cli.say(f"  again: python -m bench.soak --attack {name} --seed {seed} --only {number}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where there is a fault."""
    args = parser().parse_args(argv)
    names = attacks(args.attack)
    if args.only is not None:
        if len(names) != 1:
            raise cli.UserError("--only is a case of one attack: name it with --attack")
        return replay(names[0], args.seed, args.only)
    try:
        records = soak(names, args.seed, args.minutes, args.cases, args.out)
    except OSError as error:
        raise cli.UserError(f"cannot write to {args.out}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise cli.UserError(f"{args.out / f'{args.seed}.json'} is damaged: remove it") from error
    cli.give(records.table())
    return int(records.faults() > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
