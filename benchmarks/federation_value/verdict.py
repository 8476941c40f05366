"""What the ways to train gave in closed loop: table, chart and whether the claim holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.federation_value.plan import FEDERATED, POOLED, ROUND_0
from zk0.metrics.success import Success
from zk0.report.bars import Bar, bar_chart

MEAN = "mean of the clients alone"

Scores = Mapping[str, Success]
"""Setting -> success in it."""


def over_all(scores: Scores) -> Success:
    """Success over all settings together."""
    return sum(scores.values(), Success(0, 0))


@dataclass(frozen=True)
class Verdict:
    """The scores of every way, and what follows from them."""

    alone: Mapping[str, Scores]
    """Client -> setting -> its success there, trained alone."""
    pooled: Scores
    federated: Scores
    round_0: Scores | None = None
    """Of the policy that all begin with, where it has learned before."""
    wanted_of_pooled: float = 0.9
    """Share of the pooled learner's success that the federation must reach."""

    def mean_alone(self) -> Scores:
        """Setting -> success of the clients alone, all counted together: they have as many episodes each."""
        return {
            setting: sum((scores[setting] for scores in self.alone.values()), Success(0, 0)) for setting in self.pooled
        }

    def beats(self, others: Scores) -> bool:
        """Whether the federation's interval lies above theirs."""
        return over_all(self.federated).interval()[0] > over_all(others).interval()[1]

    def reach(self) -> float:
        """The federation's success as a share of the pooled one's."""
        pooled = over_all(self.pooled).rate
        return over_all(self.federated).rate / pooled if pooled else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the claim holds."""
        rivals = [self.mean_alone(), *([self.round_0] if self.round_0 else [])]
        return all(self.beats(rival) for rival in rivals) and self.reach() >= self.wanted_of_pooled

    def rows(self) -> dict[str, Scores]:
        """Every line of the table."""
        alone = {f"{zone} alone": scores for zone, scores in self.alone.items()}
        first = {ROUND_0: self.round_0} if self.round_0 else {}
        return {**first, **alone, MEAN: self.mean_alone(), FEDERATED: self.federated, POOLED: self.pooled}

    def table(self) -> str:
        """Markdown."""
        settings = list(self.pooled)
        lines = [
            f"| trained | {' | '.join(settings)} | all | 95 % interval |",
            "|---" + "|---:" * (len(settings) + 2) + "|",
        ]
        for name, scores in self.rows().items():
            whole = over_all(scores)
            low, high = whole.interval()
            cells = [f"{scores[setting].rate:.0%}" for setting in settings]
            lines.append(f"| {name} | {' | '.join(cells)} | {whole.rate:.1%} | {low:.1%} to {high:.1%} |")
        return "\n".join(lines)

    def sentence(self) -> str:
        """The verdict in words."""
        rivals = {f"the {MEAN}": self.mean_alone()}
        if self.round_0:
            rivals[ROUND_0] = self.round_0
        found = [
            f"{'beats' if self.beats(scores) else 'does not beat'} {name} ({_span(scores)})"
            for name, scores in rivals.items()
        ]
        wanted = f" (wanted: {self.wanted_of_pooled:.0%})" if self.wanted_of_pooled else ""
        return (
            f"federated ({_span(self.federated)}) {', '.join(found)} and reaches {self.reach():.0%} of pooled{wanted}: "
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
        note = f"each: {episodes} unseen positions in {len(self.pooled)} settings; bars: Wilson's 95 % intervals"
        return bar_chart("Picking up the cube wherever a client has it", "success in closed loop, %", bars, note)


def _span(scores: Scores) -> str:
    low, high = over_all(scores).interval()
    return f"{low:.1%} to {high:.1%}"
