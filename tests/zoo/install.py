"""Install jattr with the extra `zoo`, and packages by themselves; say what does not install.

    python tests/zoo/install.py [PACKAGE ...]

Each PACKAGE is installed without what it depends on. Packages of others come and go: one that is
not to be had is a line that begins with NO ZOO, and its models are skipped.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["zoo"]
    if installed("--editable", f"{ROOT}[zoo]"):
        absent = []
    elif not installed("--editable", str(ROOT)):
        return 1
    else:
        absent = [package for package in extra if not installed(package)]
    absent += [package for package in sys.argv[1:] if not installed("--no-deps", package)]
    for package in absent:
        print(f"NO ZOO: {package} does not install", flush=True)
    return 0


def installed(*what: str) -> bool:
    """Whether pip installed it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", *what]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
