"""Versions of the packages that a run depends on."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("zk0", "lerobot", "flwr", "prefect", "peft", "torch")


def package_version(package: str) -> str:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
