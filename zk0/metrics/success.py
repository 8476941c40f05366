"""Success in closed loop, with Wilson's interval."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Success:
    """Successful episodes among those tried; what adds up over several environments."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        """Share of the episodes that succeeded, 0-1."""
        return self.successes / self.episodes

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval of the rate (Wilson 1927, JASA 22:209), 0-1, by SciPy."""
        from scipy.stats import binomtest

        bounds = binomtest(self.successes, self.episodes).proportion_ci(confidence, method="wilson")
        return float(bounds.low), float(bounds.high)

    def figures(self) -> dict[str, Any]:
        """Plain data, for a round's metrics."""
        return {
            "successes": self.successes,
            "episodes": self.episodes,
            "success_rate": self.rate,
            "interval_95": {"success_rate": list(self.interval())},
        }

    def __add__(self, other: "Success") -> "Success":
        return Success(self.successes + other.successes, self.episodes + other.episodes)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.successes}/{self.episodes} = {self.rate:.1%}, 95 % interval {low:.1%} to {high:.1%}"
