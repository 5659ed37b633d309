"""What is installed: every package pinned, and locked with its digests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from notebooks import ROOT

# Requirements by hand, and beside each what it was resolved to.
TOGETHER = ("requirements.txt", "companion/requirements.txt", "requirements-dev.txt")
OF_BENCHMARKS = "benchmarks/requirements.txt"
LOCKED = (*TOGETHER, OF_BENCHMARKS, "benchmarks/requirements-xplique.txt")


def read_pins(path: Path) -> dict[str, str]:
    """Return name and version of all that a file and the files it names ask for."""
    pins = {}
    for line in re.findall(r"^[^#\n;]+", path.read_text(), re.M):
        if line.startswith("-r "):
            pins |= read_pins(path.parent / line.removeprefix("-r "))
        else:
            name, version = line.split("==")
            pins[name] = version.strip()
    return pins


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return version and SHA-256 digests of every package of a lock file."""
    entries = re.split(r"\n(?=\S)", path.read_text().strip().replace("\\\n", " "))
    found = {}
    for entry in entries:
        match = re.match(r"([\w.-]+)==([^\s;]+)", entry)
        assert match, f"{path.name} pins no version in {entry!r}"
        found[match[1]] = match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
    return found


@pytest.mark.parametrize("name", LOCKED)
def test_what_is_asked_for_is_locked_with_digests(name):
    locked = read_lock((ROOT / name).with_suffix(".lock"))
    for package, version in read_pins(ROOT / name).items():
        assert locked[package][0] == version, "run `make lock`"
    assert all(digests for _, digests in locked.values())


@pytest.mark.parametrize("together", [TOGETHER, ("requirements.txt", OF_BENCHMARKS)])
def test_locks_agree_on_what_they_share(together):
    """One environment serves the first three; the peers run on the notebook's."""
    locks = [read_lock((ROOT / name).with_suffix(".lock")) for name in together]
    for package in set().union(*locks):
        versions = {lock[package][0] for lock in locks if package in lock}
        assert len(versions) == 1, f"{package}: {versions}; run `make lock`"


def test_the_readme_names_the_licence_of_every_package():
    text = (ROOT / "README.md").read_text().split("## Data and licence")[1]
    named = set(re.findall(r"[\w-]+", text))
    for name in LOCKED:
        assert not set(read_pins(ROOT / name)) - named


def test_an_environment_whose_python_has_vanished_is_named(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/no/python")
    (tmp_path / ".venv" / "created").touch()
    command = ["make", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode
    (line,) = done.stderr.splitlines()
    assert "the Python of .venv has vanished: run `make clean`" in line
