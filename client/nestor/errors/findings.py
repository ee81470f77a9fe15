"""What only `check` finds out, by running one batch; the codes of its findings."""

from __future__ import annotations

from nestor.errors.data import DatasetInvalid
from nestor.errors.problems import HparamsInvalid, LossInvalid, ModelInvalid, ProblemInvalid
from nestor.errors.programs import NotExportable


class CheckFailed(ProblemInvalid):
    """`check` found mistakes; `context["errors"]` has a `code`, a `where` and a `message` for each."""

    message = "{findings}"


class FunctionFailed(ProblemInvalid):
    """The problem's own code raised an error, which is the `__cause__`."""

    message = "{function} failed{where}: {error}."
    remedy = "Run problem.check(), which shows what it was given."


class LossNotTensor(LossInvalid):
    """A loss returned something else than a floating-point tensor."""


class LossNotScalar(LossInvalid):
    """A loss returned neither a scalar nor one value for each example."""


class LossNotFinite(LossInvalid):
    """A loss is NaN or infinite on initial weights."""


class LossDetached(LossInvalid):
    """No parameter reaches a loss."""


class LossSummed(LossInvalid):
    """A loss grows with the number of examples in the batch."""


class ExamplesCoupled(LossInvalid):
    """The loss of one example depends on other examples, such as by broadcasting."""


class NotAMean(LossInvalid):
    """The validation loss on a batch is not the mean over its examples."""


class SumsNotAdditive(LossInvalid):
    """A loss or metric returns (sum, weight), and these are not sums over the examples of the batch."""


class GradientNotFinite(LossInvalid):
    """The gradient of the training loss is NaN or infinite on initial weights."""


class GradientsDisabled(ProblemInvalid):
    """The problem is used inside of torch.no_grad() or torch.inference_mode()."""


class SecondDerivativeMissing(ProblemInvalid):
    """A part of the problem cannot be differentiated twice, or not in the way that a trial does it."""


class WarningRaised(ProblemInvalid):
    """Torch, or the problem's code, warned while the problem ran."""


class MetricNotFinite(ProblemInvalid):
    """A metric is NaN or infinite on initial weights."""


class DevicesDiffer(ModelInvalid):
    """The parameters lie on several devices."""


class ValuesNotFloating(ModelInvalid):
    """A parameter or hyperparameter has a dtype without gradients."""


class ValuesNotFinite(ModelInvalid):
    """A parameter or hyperparameter holds NaN or infinity."""


class BatchNormInTraining(ModelInvalid):
    """BatchNorm cannot train on a batch of one example."""


class InputOverwritten(ModelInvalid):
    """The model writes into its input, that is into the data."""


class ModelNotReproducible(ModelInvalid):
    """Two calls with one seed give different outputs."""


class BufferChanged(ModelInvalid):
    """The model changes a buffer in evaluation mode."""


class ParameterUnused(ModelInvalid):
    """A parameter does not reach the training loss, or only the decay does."""


class HookNotServed(ModelInvalid):
    """A hook of the model does not run in a trial as it does in PyTorch."""


class HparamWithoutInfluence(HparamsInvalid):
    """A hyperparameter does not reach the hypergradient."""


class ColumnDtypeDiffers(DatasetInvalid):
    """A column has another dtype than the model's parameters."""


class ExportDiffers(NotExportable):
    """The exported program computes other losses or derivatives than the problem."""

    message = "{reason}"
