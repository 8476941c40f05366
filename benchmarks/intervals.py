"""How often a 95 % interval holds what it is an interval of: `python -m benchmarks.intervals`.

Episodes are drawn whose mean errors differ (lognormal, coefficient of variation 0.5), with frames within them that go
with their episode and with the frame before. Each set is resampled by episodes, as zk0 does, and by frames.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from zk0.metrics.intervals import Episodes, mean_interval

EPISODES = (2, 3, 5, 10, 20, 50)
FRAMES = 20
SPREAD = 0.5
WITHIN = 0.3
"""Standard deviation of the logarithm of a frame's error about its episode's."""
PERSISTENCE = 0.9
"""Correlation of a frame with the one before."""


def draw(generator: np.random.Generator, episodes: int) -> NDArray[np.float64]:
    """Errors of all frames, with mean 1 over all episodes that there could be: shape (episodes, FRAMES)."""
    sigma = np.sqrt(np.log1p(SPREAD**2))
    levels = generator.lognormal(-(sigma**2) / 2, sigma, (episodes, 1))
    noise = generator.normal(0, WITHIN, (episodes, FRAMES))
    for frame in range(1, FRAMES):
        noise[:, frame] = PERSISTENCE * noise[:, frame - 1] + np.sqrt(1 - PERSISTENCE**2) * noise[:, frame]
    return np.asarray(levels * np.exp(noise - WITHIN**2 / 2))


def coverage(episodes: int, trials: int, *, by_frames: bool) -> tuple[float, float]:
    """Share of the intervals that hold the true mean, and their mean width."""
    generator = np.random.default_rng(episodes)
    hits, widths = 0, []
    for trial in range(trials):
        errors = draw(generator, episodes)
        values = errors.ravel() if by_frames else errors.mean(axis=1)
        low, high = mean_interval([Episodes([1.0] * len(values), values.tolist())], trial) or (0.0, 0.0)
        hits += low <= 1.0 <= high
        widths.append(high - low)
    return hits / trials, float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500, help="sets of episodes for each row")
    trials = parser.parse_args().trials
    print("| held-out episodes | by episodes: holds the mean | width | by frames: holds the mean | width |")
    print("|---:|---:|---:|---:|---:|")
    for episodes in EPISODES:
        cells = [
            f"{share:.0%} | {width:.2f}"
            for share, width in (coverage(episodes, trials, by_frames=by_frames) for by_frames in (False, True))
        ]
        print(f"| {episodes} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
