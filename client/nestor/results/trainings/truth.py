"""Whether a hypergradient is true: what it predicts for other hyperparameters, and what retraining under them gives."""

from __future__ import annotations

from dataclasses import dataclass

from nestor.results.trainings.ranks import interval, spearman

TRUE, DOUBTFUL = 0.6, 0.35  # scores
ROUNDING = 1e-6  # relative: changes of a loss in float32 that may be rounding alone


@dataclass(frozen=True)
class Truth:
    """Predicted and real changes of the validation loss, one of each for a retraining.

    Attributes:
        value: the validation loss under the unchanged hyperparameters.
        predicted: the hypergradient times the change of the hyperparameters.
        real: the validation loss after a training under the changed hyperparameters, minus `value`.
    """

    value: float
    predicted: tuple[float, ...]
    real: tuple[float, ...]

    @property
    def score(self) -> float:
        """The rank correlation of both, from −1 to 1: the linear datamodeling score [1].

        [1] Park et al. (2023), TRAK: attributing model behavior at scale.
        """
        return spearman(self.predicted, self.real)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the score of many retrainings lies with a probability of 95 %."""
        return interval(self.score, len(self.real))

    @property
    def is_measurable(self) -> bool:
        """Whether the real changes are larger than rounding."""
        return max(map(abs, self.real)) > ROUNDING * abs(self.value)

    @property
    def sentence(self) -> str:
        """The result, and what to do about it."""
        if not self.is_measurable:
            return (
                f"Retraining changed the validation loss of {self.value:.4g} by less than its rounding, so this says "
                "nothing. Pass a larger size, or check that the training loss reads the hyperparameters."
            )
        low, high = self.interval
        found = f"its score over {len(self.real)} retrainings is {self.score:.2f} ({low:.2f} to {high:.2f})"
        if self.score >= TRUE:
            return f"The hypergradient predicts what retraining gives: {found}."
        remedy = (
            "Let the response reach as far as the training, such as with Implicit(GaussNewton(damping='auto'), "
            "WarmStarted(PreconditionedCG())), or take more inner steps; Unrolled() is exact over the steps that it "
            "unrolls."
        )
        if self.score >= DOUBTFUL:
            return f"The hypergradient predicts roughly what retraining gives: {found}. {remedy}"
        return f"The hypergradient does not predict what retraining gives: {found}. {remedy}"
