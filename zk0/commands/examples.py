"""Examples for the help of each command: what stands here is run by tests/integration or tried in tests/unit."""


def _lines(*examples: str) -> str:
    """Each on a line of its own: typer joins what no empty line parts."""
    return "\n\n".join(("Examples:", *examples))


EXAMPLES = {
    "run": _lines(
        "zk0 run",
        "zk0 run my.toml --name first",
        "zk0 run my.toml --set training.steps=20 --set executor.kind=docker",
    ),
    "serve": _lines("zk0 serve", "zk0 serve my.toml --port 4300"),
    "resume": _lines("zk0 resume", "zk0 resume first --outputs /data/outputs"),
    "status": _lines("zk0 status", "zk0 status first --json"),
    "report": _lines("zk0 report", "zk0 report first --out first.html"),
    "compare": _lines("zk0 compare first", "zk0 compare first --json"),
    "export": _lines("zk0 export first --out policy", "zk0 export first --round 3 --merge --out policy"),
    "check-data": _lines("zk0 check-data my.toml", "zk0 check-data my.toml --fix-to fixed"),
    "push": _lines(
        "zk0 push first me/arm --dry-run",
        "zk0 push first me/arm --round last --merge --license apache-2.0 --public",
    ),
    "record": _lines("zk0 record kitchen --out recordings/kitchen --episodes 10"),
    "doctor": _lines("zk0 doctor", "zk0 doctor --json"),
    "init": _lines(
        "zk0 init recordings --out my.toml",
        "zk0 init recordings/kitchen me/workshop --policy lerobot/smolvla_base",
    ),
    "clean": _lines("zk0 clean --dry-run", "zk0 clean --keep 3 --yes", "zk0 clean --run first"),
}
