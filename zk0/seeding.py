"""Seeds: every random choice of a run is a pure function of (run seed, round, client, purpose)."""

import hashlib


def derive_seed(run_seed: int, server_round: int, client: str, purpose: str) -> int:
    """Derive an independent seed for one purpose.

    Args:
        run_seed: `RunConfig.seed`.
        server_round: the round, 0 for what must not change from round to round.
        client: the client's name, "" for the server.
        purpose: what the seed is for, such as "train" or "evaluate".

    Returns:
        An integer in [0, 2**31), which torch, numpy, random and LeRobot's `set_seed` all accept.
    """
    text = f"{run_seed}\x1f{server_round}\x1f{client}\x1f{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
