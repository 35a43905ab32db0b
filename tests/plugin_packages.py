"""Packages that register reducers: one really installed, others as an installer leaves them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"


def page_blocks(language: str) -> list[str]:
    """Returns the code of the page about plugins."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def install_page_package(folder: Path) -> Path:
    """Builds the package that the page shows and installs it, offline.

    Returns:
        The folder to put on the path.
    """
    source, site = folder / "source", folder / "site"
    source.mkdir(parents=True)
    (source / "our_metrics.py").write_text(page_blocks("python")[0], encoding="utf-8")
    (source / "pyproject.toml").write_text(page_blocks("toml")[0], encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True)
    return site


def write_package(site: Path, package: str, version: str, names: dict[str, str]) -> None:
    """Writes what an installer writes of a package: its name and its entry points.

    Args:
        site: The folder that is on the path.
        package: The package's name.
        version: Its version.
        names: For each reducer its object reference.
    """
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"{name} = {reference}" for name, reference in names.items()]
    text = "\n".join(["[trialrun.reducers]", *lines, ""])
    (info / "entry_points.txt").write_text(text, encoding="utf-8")
