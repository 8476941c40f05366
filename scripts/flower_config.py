"""Write the keys of [tool.flwr.app.config] in pyproject.toml: Flower takes none by `--run-config` that is not there.

`python scripts/flower_config.py` writes them; `tests/unit/flower/test_settings.py` holds them up to date.
"""

from pathlib import Path

from zk0.flower.settings import keys

TARGET = Path(__file__).parent.parent / "pyproject.toml"
BEGIN = "# zk0's own keys, made by scripts/flower_config.py; an empty text leaves a key as `config` has it.\n"
END = "# End of zk0's own keys.\n"


def render() -> str:
    """The keys, empty, a line each."""
    return "".join(f'{key} = ""\n' for key in keys())


def renewed(text: str) -> str:
    """A pyproject.toml with the keys as they are now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + render() + END + rest.split(END)[1]


if __name__ == "__main__":
    TARGET.write_text(renewed(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {TARGET}")
