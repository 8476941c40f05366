"""What the ways to train gave in closed loop: table, chart and whether the claim holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from zk0.closed_loop import Success
from zk0.report.bars import Bar, bar_chart

REACH_OF_POOLED = 0.9
FEDERATED, POOLED, MEAN = "federated", "pooled", "mean of the clients alone"

Scores = Mapping[str, Success]
"""Zone -> success in it."""


def over_all(scores: Scores) -> Success:
    """Success over all zones together."""
    return sum(scores.values(), Success(0, 0))


@dataclass(frozen=True)
class Verdict:
    """The scores of every way, and what follows from them."""

    alone: Mapping[str, Scores]
    """Client -> zone -> its success there, trained alone."""
    pooled: Scores
    federated: Scores

    def mean_alone(self) -> Scores:
        """Zone -> success of the clients alone, all counted together: they have as many episodes each."""
        zones = list(self.pooled)
        return {zone: sum((scores[zone] for scores in self.alone.values()), Success(0, 0)) for zone in zones}

    def beats_alone(self) -> bool:
        """Whether the federation's interval lies above that of the mean of the clients alone."""
        return over_all(self.federated).interval()[0] > over_all(self.mean_alone()).interval()[1]

    def reach(self) -> float:
        """The federation's success as a share of the pooled one's."""
        pooled = over_all(self.pooled).rate
        return over_all(self.federated).rate / pooled if pooled else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the claim holds."""
        return self.beats_alone() and self.reach() >= REACH_OF_POOLED

    def rows(self) -> dict[str, Scores]:
        """Every line of the table."""
        alone = {f"{zone} alone": scores for zone, scores in self.alone.items()}
        return {**alone, MEAN: self.mean_alone(), FEDERATED: self.federated, POOLED: self.pooled}

    def table(self) -> str:
        """Markdown."""
        zones = list(self.pooled)
        lines = [
            f"| trained | {' | '.join(zones)} | all zones | 95 % interval |",
            "|---" + "|---:" * (len(zones) + 2) + "|",
        ]
        for name, scores in self.rows().items():
            whole = over_all(scores)
            low, high = whole.interval()
            cells = [f"{scores[zone].rate:.0%}" for zone in zones]
            lines.append(f"| {name} | {' | '.join(cells)} | {whole.rate:.1%} | {low:.1%} to {high:.1%} |")
        return "\n".join(lines)

    def sentence(self) -> str:
        """The verdict in words."""
        beats = "beats" if self.beats_alone() else "does not beat"
        return (
            f"federated {beats} the mean of the clients alone (intervals {_span(self.federated)} and "
            f"{_span(self.mean_alone())}) and reaches {self.reach():.0%} of pooled (wanted: {REACH_OF_POOLED:.0%}): "
            f"the claim {'holds' if self.holds else 'FAILS'}"
        )

    def chart(self) -> bytes:
        """The whole success of every way as bars, PNG."""
        bars = []
        for name, scores in self.rows().items():
            whole = over_all(scores)
            low, high = whole.interval()
            bars.append(Bar(name, 100 * whole.rate, 100 * low, 100 * high, emphasised=name == FEDERATED))
        episodes = over_all(self.pooled).episodes
        note = f"{episodes} unseen positions in {len(self.pooled)} zones each; bars: Wilson's 95 % intervals"
        return bar_chart("Picking up the cube anywhere on the bench", "success in closed loop, %", bars, note)


def _span(scores: Scores) -> str:
    low, high = over_all(scores).interval()
    return f"{low:.1%} to {high:.1%}"
