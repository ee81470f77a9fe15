"""The table of verdicts: the first rule that applies to a trial says whether its result can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nestor.results.verdicts.evidence import Evidence
from nestor.schemas.trials import Answer, Verdict

NEARLY_ALL = 0.9  # of the steps
SOME = 0.01  # of the steps
MUCH_WORSE = 0.1  # of the best value
LAST = 3  # steps in a row at the end
EXAMPLES_EACH = 10  # validation examples that one hyperparameter needs if nothing else measures the result


@dataclass(frozen=True)
class Facts:
    """What rules ask and sentences name: the evidence, and what is known of the trial without its steps.

    Attributes:
        evidence: of the trial's steps.
        n_hparams: entries of all hyperparameters.
        folds: whether all examples take turns in steering.
        error: why the trial failed; None: it did not fail.
        tunes: whether its hyperparameters move.
        validation_trains: whether the validation examples train the weights, too.
        retrains: whether it is a training for the truth of another trial's hypergradient.
    """

    evidence: Evidence
    n_hparams: int
    folds: bool
    error: str | None
    tunes: bool
    validation_trains: bool
    retrains: bool

    @property
    def what(self) -> str:
        """The number that ranks steps, with the examples that it was measured on."""
        return f"{self._ranks} on {'held-out' if self.evidence.held_out else 'all validation'} examples"

    @property
    def tested(self) -> str:
        """The same number on test examples."""
        return f"{self._ranks} on test examples"

    @property
    def _ranks(self) -> str:
        return "the loss" if self.evidence.metric is None else f"the metric {self.evidence.metric!r}"

    @property
    def watch(self) -> str:
        """Why an improvement on the validation examples says something about other examples."""
        if self.evidence.held_out:
            return "Held-out examples steered nothing."
        if self.evidence.test_value_at_best is not None:
            return f"On test examples it was {self.evidence.test_value_at_best:.4g} by then."
        if self.folds:
            return "All examples took turns in validation."
        return "So few hyperparameters can hardly overfit these examples."

    @property
    def unmoved(self) -> str:
        """The hyperparameters without a hypergradient."""
        return _listed(self.evidence.unmoved)

    @property
    def at_bounds(self) -> str:
        """The hyperparameters that have reached their bounds."""
        return _listed(self.evidence.at_bounds)

    @property
    def is_watched(self) -> bool:
        """Whether anything but the steering examples measured the result, or they are many for the hyperparameters."""
        evidence = self.evidence
        if self.folds or evidence.held_out or evidence.test_value is not None:
            return True
        # Steps of an earlier version do not say how many examples steered them.
        return evidence.val_examples is None or self.n_hparams * EXAMPLES_EACH <= evidence.val_examples


@dataclass(frozen=True)
class Rule:
    """One kind of verdict. `sentence` is a template over `f`, the facts, and `e`, the evidence.

    Attributes:
        logged: the log of a complete trial repeats it: the result is wrong, or the last step is a bad choice.
    """

    code: str
    answer: Answer
    when: str  # for the documentation
    applies: Callable[[Facts, Evidence], bool]
    sentence: str
    remedy: str
    logged: bool = False


# The first rule that applies is the verdict.
RULES = (
    Rule(
        "failed",
        "no",
        "the trial failed",
        lambda f, e: f.error is not None,
        "The trial failed: {f.error}",
        "Remove the cause, then retry the trial or submit it again. Its records can still be read.",
    ),
    Rule(
        "validation_trained",
        "with care",
        "the trial trained on the training and validation data together",
        lambda f, e: f.validation_trains,
        "The validation examples trained the weights, too, so {f.what} says nothing about other examples.",
        "Judge the result on test examples (test=…).",
    ),
    Rule(
        "retrained",
        "yes",
        "the trial trained for the truth of another trial's hypergradient",
        lambda f, e: f.retrains,
        "The weights were trained under fixed hyperparameters, to compare them with what a hypergradient predicts.",
        "Read what all of these trainings say: trial.truth_report() of the trial that this one starts from.",
    ),
    Rule(
        "frozen",
        "yes",
        "the trial trained under fixed hyperparameters",
        lambda f, e: not f.tunes,
        "The weights were trained under fixed hyperparameters, so no tuning can have gone wrong.",
        "To compare the result with that of the trial that tuned them, read the confirmation of that trial.",
    ),
    Rule(
        "solves_failed",
        "no",
        f"the linear solve failed in more than half of the steps, or in the last {LAST} and a tenth of all",
        lambda f, e: e.failed > e.steps / 2 or e.failed_in_a_row >= max(LAST, e.steps / 10),
        "The linear solve failed in {e.failed} of {e.steps} steps, {e.failed_in_a_row} of them in a row at the end "
        "(last failure: {e.failure}), so these hypergradients are wrong.",
        "Use GaussNewton() as the curvature, more damping, or alpha='auto'. If the system is not finite, lower the "
        "learning rate of the inner optimizer.",
        logged=True,
    ),
    Rule(
        "hypergradient_zero",
        "no",
        f"the hypergradient was exactly zero in at least {NEARLY_ALL:.0%} of the steps",
        lambda f, e: e.zero >= NEARLY_ALL * e.steps,
        "The hypergradient was exactly zero in {e.zero} of {e.steps} steps, so the hyperparameters were not tuned: "
        "the validation loss does not depend on them, neither directly nor through the trained weights.",
        "Check that the training loss reads the hyperparameters, that the validation loss reads the trained weights, "
        "and that nothing detaches them. DirectOnly() ignores the weights: use Implicit() or Unrolled().",
        logged=True,
    ),
    Rule(
        "overfitting",
        "with care",
        f"the best step is more than {MUCH_WORSE:.0%} worse on test examples than a step before it",
        lambda f, e: e.best_step != e.first_step and _much_worse(e.test_value_at_best, e.best_test_value_at_best),
        "The hyperparameters overfit the validation examples: {f.what} went from {e.first_value:.4g} to "
        "{e.best_value:.4g} at step {e.best_step}, while {f.tested} went from {e.best_test_value_at_best:.4g} to "
        "{e.test_value_at_best:.4g}.",
        "Use early_stopping, fewer hyperparameters, or more validation examples.",
        logged=True,
    ),
    Rule(
        "overfitting_after_best",
        "with care",
        f"held-out examples ended more than {MUCH_WORSE:.0%} worse than at the best step, and the validation loss fell",
        lambda f, e: e.held_out and _much_worse(e.last_value, e.best_value) and _fell(e),
        "After step {e.best_step} the hyperparameters overfit the validation examples: their loss went from "
        "{e.val_loss_at_best:.4g} to {e.val_loss:.4g}, while {f.what} went from {e.best_value:.4g} to "
        "{e.last_value:.4g}.",
        "Use the best step, as load_weights and best_hparams do, and lower the patience of early_stopping or the "
        "number of hyperparameters.",
        logged=True,
    ),
    Rule(
        "declined",
        "with care",
        f"the last step was more than {MUCH_WORSE:.0%} worse than the best",
        lambda f, e: _much_worse(e.last_value, e.best_value),
        "After step {e.best_step} the result became worse: {f.what} went from {e.best_value:.4g} to "
        "{e.last_value:.4g}.",
        "Use the best step, as load_weights and best_hparams do, or early_stopping and lower learning rates.",
        logged=True,
    ),
    Rule(
        "some_solves_failed",
        "with care",
        f"the linear solve failed in at least {SOME:.0%} of the steps",
        lambda f, e: e.failed > 0 and e.failed >= SOME * e.steps,
        "The linear solve failed in {e.failed} of {e.steps} steps (last failure: {e.failure}), so these "
        "hypergradients are wrong.",
        "Use GaussNewton() as the curvature, more damping, or alpha='auto'.",
    ),
    Rule(
        "hypergradient_sometimes_zero",
        "with care",
        f"the hypergradient was exactly zero in at least {SOME:.0%} of the steps",
        lambda f, e: e.zero > 0 and e.zero >= SOME * e.steps,
        "The hypergradient was exactly zero in {e.zero} of {e.steps} steps, in which nothing was tuned.",
        "Look for units that are always off, for losses that are exactly zero, and for batches that the "
        "hyperparameters do not touch.",
    ),
    Rule(
        "hyperparameters_unmoved",
        "with care",
        "the hypergradient of a hyperparameter was exactly zero at every step",
        lambda f, e: bool(e.unmoved),
        "The hypergradient of {f.unmoved} was exactly zero at every step, so it was not tuned.",
        "Check that the training loss reads it, or remove it.",
    ),
    Rule(
        "at_bounds",
        "with care",
        "every entry of a hyperparameter is at a bound",
        lambda f, e: bool(e.at_bounds),
        "Every entry of {f.at_bounds} is at a bound, so the bound was chosen and not the data.",
        "Widen the bounds, or lower the outer learning rate.",
    ),
    Rule(
        "no_improvement",
        "with care",
        "of several evaluated steps, the first is the best",
        lambda f, e: e.evaluated > 1 and e.best_step == e.first_step,
        "No evaluated step was better than the first: {f.what} was {e.first_value:.4g} at step {e.first_step} and "
        "{e.last_value:.4g} at the end.",
        "Let the weights settle first (warmup_steps), take more outer steps, or change the outer learning rate.",
    ),
    Rule(
        "not_measured",
        "with care",
        f"there are more hyperparameters than one for {EXAMPLES_EACH} validation examples of a batch, and no held-out "
        "examples, folds or test examples",
        lambda f, e: not f.is_watched,
        "Batches of {e.val_examples:,} validation examples tuned {f.n_hparams:,} hyperparameters, and no other "
        "examples measured the result, so it may be worse elsewhere.",
        "Use early_stopping, folds, or test data (test=…), or call trial.confirm().",
    ),
    Rule(
        "not_compared",
        "with care",
        "fewer than two steps were evaluated",
        lambda f, e: e.evaluated < 2,
        "Of {e.steps} steps {e.evaluated} were evaluated, so nothing shows whether the tuning improves the result.",
        "Take more steps, or lower evaluate_every.",
    ),
    Rule(
        "good",
        "yes",
        "none of these",
        lambda f, e: True,
        "{f.what} went from {e.first_value:.4g} at step {e.first_step} to {e.best_value:.4g} at step {e.best_step}. "
        "{f.watch}",
        "To be surer, train again under the best hyperparameters: trial.confirm().",
    ),
)


def judge(
    evidence: Evidence | None,
    *,
    n_hparams: int,
    folds: bool,
    tunes: bool = True,
    validation_trains: bool = False,
    retrains: bool = False,
    error: Mapping[str, Any] | None = None,
) -> Verdict | None:
    """The verdict on a trial; None before its first step, unless it failed.

    Args:
        evidence: None: its steps were recorded by a version that kept none.
        n_hparams: entries of all hyperparameters.
        folds: whether it was tuned with folds.
        tunes: whether its hyperparameters move; false for the response `Frozen`.
        validation_trains: whether the validation examples train the weights, too, as with `train_on="train+val"`.
        retrains: whether its warm start has a nudge.
        error: the problem document of a failed trial.
    """
    reason = None if error is None else str(error.get("detail") or error.get("title") or "no reason was recorded")
    if reason is None and (evidence is None or evidence.steps == 0):
        return None
    facts = Facts(evidence or Evidence(), n_hparams, folds, reason, tunes, validation_trains, retrains)
    rule = next(rule for rule in RULES if rule.applies(facts, facts.evidence))
    sentence = rule.sentence.format(f=facts, e=facts.evidence)
    return Verdict(answer=rule.answer, code=rule.code, sentence=sentence[0].upper() + sentence[1:], remedy=rule.remedy)


LOGGED = frozenset(rule.code for rule in RULES if rule.logged)


def warning(verdict: Verdict | None) -> str | None:
    """A warning for the log of a trial that completes; None if the log need not repeat its verdict."""
    return f"{verdict.sentence} {verdict.remedy}" if verdict is not None and verdict.code in LOGGED else None


def _much_worse(value: float | None, best: float | None) -> bool:
    """`best` is the best of several values, so only the distance counts."""
    return value is not None and best is not None and abs(value - best) > MUCH_WORSE * abs(best)


def _fell(evidence: Evidence) -> bool:
    """Whether the loss of the batches that steer went on falling after the best step."""
    now, then = evidence.val_loss, evidence.val_loss_at_best
    return now is not None and then is not None and now < then


def _listed(names: tuple[str, ...], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"the hyperparameter{'s' if len(names) > 1 else ''} " + ", ".join(map(repr, names[:shown])) + more
