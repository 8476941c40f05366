"""`python -m zk0.flower KEYS`: what is wrong with a run config, before `flwr run` refuses it without naming a key.

Flower holds the keys against those of `pyproject.toml` in its SuperLink, and tells the caller no more than that one is
wrong.
"""

import sys

from zk0.errors import BadInputError
from zk0.flower.settings import parsed, wanted


def main(words: list[str]) -> int:
    """Say what is wrong; gives the exit code.

    Args:
        words: what would stand behind `--run-config`: one text of key=value items, or a TOML file.
    """
    try:
        wanted(parsed(words))
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write("flwr run can be given that\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
