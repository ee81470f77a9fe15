"""Options with values that cannot work, alone or together."""

from __future__ import annotations

from nestor.errors.requests import InvalidInput


class ConfigInvalid(InvalidInput):
    """An option has a value that cannot work."""


class OptionInvalid(ConfigInvalid):
    """An option is outside of its range or has the wrong type."""

    message = "{option}: {rule}."


class OptionOutOfRange(OptionInvalid):
    """A number is outside of its range."""


class OptionTypeWrong(OptionInvalid):
    """A value has a type that the option does not take."""


class ChoiceUnknown(OptionInvalid):
    """A word is none of those that the option takes."""

    message = "{option}: choose one of {choices}."


class OptionUnknown(ConfigInvalid):
    """There is no such option, optimizer, curvature, solver or response."""

    message = "{option} is not known to this version. {hint}"


class HparamsUnused(ConfigInvalid):
    """An option names a hyperparameter that the problem does not have."""

    message = "{option} names {name!r}, but the hyperparameters are {hparams}."
    remedy = "Name one of them, or the first parts of a name."


class StepsContradict(ConfigInvalid):
    """Two options name different numbers of outer steps."""

    message = "{option}: its steps={steps} contradicts n_steps={n_steps}."
    remedy = "n_steps is the number of outer steps. Leave steps out of the outer optimizer."


class UnrollTooLong(ConfigInvalid):
    """A response goes back further than the inner steps reach."""

    message = "{option} goes back further than the {inner_steps} inner steps between two outer steps."
    remedy = "Raise the number of inner steps, or unroll fewer."


class NesterovWithoutMomentum(ConfigInvalid):
    """Nesterov's momentum was asked for without momentum."""

    message = "SGD(nesterov=True) needs momentum."
    remedy = "Pass momentum=0.9, or nesterov=False."


class AugmentationAmbiguous(ConfigInvalid):
    """Augmentation was given a network and channels, or neither."""

    message = "Augmentation takes either a network, or channels=… for a small U-Net."
    remedy = "Pass one of them."


class SquaredGradientsMissing(ConfigInvalid):
    """AdamDiagonal needs an inner optimizer that keeps squared gradients."""

    message = "AdamDiagonal() reads squared gradients, which the inner optimizer does not keep."
    remedy = "Use Adam, AdamW or RMSprop as the inner optimizer, or NystromSketch() as the preconditioner."


class PreconditionerUnavailable(ConfigInvalid):
    """A preconditioner needs a curvature, and the operator is a bare matrix."""

    message = "This preconditioner reads the training loss, and the operator is not that of a curvature."
    remedy = "Use NystromSketch, which needs products only."


class MatrixTooLarge(ConfigInvalid):
    """A direct solver would build too large a matrix."""

    message = "Direct() would build a matrix of {n:,} × {n:,}; it is for at most {limit:,} weights."
    remedy = "Use ConjugateGradient or PreconditionedCG."


class BatchNotDivisible(ConfigInvalid):
    """A batch has fewer examples than there are devices."""

    message = "{n} examples cannot be divided among {devices} devices."
    remedy = "Use larger batches, more data, or fewer devices."


class CurvatureNotDistributed(ConfigInvalid):
    """A curvature cannot be computed by several devices together."""

    message = "{curvature} draws its factors from whole batches, which {devices} devices divide among them."
    remedy = "Use GaussNewton, or another preconditioner, or one device."


class TooFewDevices(ConfigInvalid):
    """A trial should take more devices than there are."""

    message = "{option} is {wanted}, but there are {devices} devices here."
    remedy = "Set it to fewer."


class TooManySteps(ConfigInvalid):
    """A trial would count more steps than it can."""

    message = "That makes {n_steps:,} steps in all; a trial takes at most {limit:,}."
    remedy = "Ask for fewer."


class CallbacksWithoutWait(ConfigInvalid):
    """Callbacks were given to a call that does not wait."""

    message = "Callbacks are called while optimize waits."
    remedy = "Leave wait=True, or loop over trial.stream()."


class FoldsWithExampleHparams(ConfigInvalid):
    """Folds were asked for with hyperparameters of single training examples."""

    message = (
        "Some hyperparameters have an entry for each training example, and folds make other examples training "
        "examples from step to step."
    )
    remedy = "Leave folds out, or tune other kinds."


class AttributesNotJson(ConfigInvalid):
    """User attributes are not what JSON can hold."""

    message = "User attributes must be what JSON can hold: {reason}."
    remedy = "Convert them first."
