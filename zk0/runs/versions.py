"""Versions of the packages that a run depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("zk0", "lerobot", "flwr", "prefect", "peft", "torch")


def package_version(package: str) -> str:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Those of all of them, and Python's."""
    return {**{package: package_version(package) for package in PACKAGES}, "python": platform.python_version()}
