# SPDX-License-Identifier: Apache-2.0
"""What comes from others: a lock file with hashes, the licences, and a bill of materials.

python -m bench.supply --lock requirements.lock    asks the package index, as pip does
python -m bench.supply --licences                  of what is installed here
python -m bench.supply --sbom sbom.json            of what is installed here, CycloneDX 1.5

The lock file is of this Python and this platform: pip install --require-hashes -r requirements.lock
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

from ir import cli
from ir.files import replace_text

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "rmsmp"
LONGEST = 60  #: characters of a licence; some packages have its whole text in its place


def needed(extras: Sequence[str]) -> list[Distribution]:
    """Installed distributions that the project needs with ``extras``, sorted by name.

    Those that are not installed are left out.
    """
    found: dict[str, Distribution] = {}
    waiting = [Requirement(f"{PROJECT}[{','.join(extras)}]")]
    seen = set[str]()
    while waiting:
        wanted = waiting.pop()
        key = str(wanted)
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[wanted.name.lower()] = distribution
        for text in distribution.requires or ():
            inner = Requirement(text)
            marks = [{"extra": extra} for extra in (*wanted.extras, "")]
            if inner.marker is None or any(map(inner.marker.evaluate, marks)):
                waiting.append(inner)
    found.pop(PROJECT, None)
    return [found[name] for name in sorted(found)]


def licence(distribution: Distribution) -> str:
    """Licence that a distribution names: as SPDX expression, by classifiers, or in a text."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return expression
    classified = [
        value.rpartition(" :: ")[2]
        for value in about.get_all("Classifier") or ()
        if value.startswith("License :: ")
    ]
    text = " or ".join(classified) or (about.get("License") or "not named").strip()
    return text.partition("\n")[0][:LONGEST]


def licences(distributions: Sequence[Distribution]) -> str:
    """Table of distributions and licences in Markdown."""
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {d.name} | {d.version} | {licence(d)} |" for d in distributions]
    return "\n".join(lines)


def sbom(distributions: Sequence[Distribution]) -> dict[str, object]:
    """Bill of materials as a CycloneDX document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": PROJECT,
                "version": importlib.metadata.version(PROJECT),
            }
        },
        "components": [
            {
                "type": "library",
                "name": d.name,
                "version": d.version,
                "purl": f"pkg:pypi/{d.name.lower().replace('_', '-')}@{d.version}",
                "licenses": [{"license": {"name": licence(d)}}],
            }
            for d in distributions
        ],
    }


def lock(report: dict) -> str:
    """Lock file from the report of a dry run of pip: every package with the digest of its file."""
    lines = [
        f"# Written by python -m bench.supply --lock: Python {sys.version_info.major}."
        f"{sys.version_info.minor}, {platform.system()} {platform.machine()}.",
        "# pip install --require-hashes -r requirements.lock",
    ]
    packages = {}
    for entry in report["install"]:
        hashes = entry["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes:  # the project itself has none
            about = entry["metadata"]
            packages[about["name"].lower()] = (about["version"], hashes["sha256"])
    for name, (version, digest) in sorted(packages.items()):
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def resolved(extras: Sequence[str]) -> dict:
    """Report of pip's dry run for the project with ``extras`` under constraints.txt.

    Raises UserError where pip cannot.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-q"]
    command += ["--report", "-", "-c", "constraints.txt", f".[{','.join(extras)}]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise cli.UserError(f"pip: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="bench.supply", description=__doc__)
    p.add_argument("--extras", default="train,sim", metavar="A,B", help="(default: %(default)s)")
    p.add_argument("--lock", type=Path, metavar="FILE", help="write a lock file")
    p.add_argument("--sbom", type=Path, metavar="FILE", help="write a bill of materials")
    p.add_argument("--licences", action="store_true", help="print a table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    extras = [extra for extra in args.extras.split(",") if extra]
    try:
        if args.lock:
            replace_text(args.lock, lock(resolved(extras)))
        if args.sbom:
            replace_text(args.sbom, json.dumps(sbom(needed(extras)), indent=1) + "\n")
    except OSError as error:
        raise cli.UserError(f"cannot write: {error}") from error
    if args.licences:
        cli.give(licences(needed(extras)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
