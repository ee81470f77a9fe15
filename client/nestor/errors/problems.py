"""What is wrong with a problem: its model, losses, data and hyperparameters."""

from __future__ import annotations

from nestor.errors.requests import InvalidInput


class ProblemInvalid(InvalidInput):
    """The problem cannot be trained as it was stated."""


# --- the model ------------------------------------------------------------------------------------


class ModelInvalid(ProblemInvalid):
    """The model cannot be trained."""


class ModelHasNoParameters(ModelInvalid):
    """Nothing of the model requires a gradient."""

    message = "{owner} has no parameter that requires a gradient, so there is nothing to train."
    remedy = "Pass the model itself, and call requires_grad_(True) on what should be trained."


class ModelNotSupported(ModelInvalid):
    """The model, or a part of it, is a module that cannot be called with other weights."""

    message = "{part} is {kind}, which cannot be called with other weights."
    remedy = "Pass the torch.nn.Module that it was made from."


class ModelNotCopyable(ModelInvalid):
    """An attribute of the model can be neither copied nor shared."""

    message = "The model cannot be copied because of its attribute {attribute}: {error}."
    remedy = "Create what it holds in forward, or remove it from the model."


class ParameterNotRegistered(ModelInvalid):
    """An attribute holds trainable tensors that torch does not count among the model's parameters."""

    message = (
        "The model's attribute {attribute} holds a tensor of shape {shape} that requires a gradient and is not one of "
        "model.parameters(), so nothing would train it."
    )
    remedy = (
        "Use nn.ParameterList, nn.ParameterDict or nn.ModuleList in place of a list or dict, or freeze it with "
        "requires_grad_(False)."
    )


class AttributeOutdated(ModelInvalid):
    """The model reads an attribute that was computed from its weights before the call."""

    message = (
        "The model reads its attribute {attribute}, which was computed from its parameters before this call. It would "
        "keep that value while the parameters are trained."
    )
    remedy = "Compute it in forward, or keep state between calls in a buffer."


class ParameterNotReplaceable(ModelInvalid):
    """An attribute holds a parameter where training cannot put other values."""

    message = "The model's attribute {attribute} holds the parameter {name!r} where training cannot replace it."
    remedy = "Hold it in a list or a dict, or read it from its module in forward."


class ClosureReadsModel(ModelInvalid):
    """A function among the model's attributes reads the model through a variable of its own."""

    message = (
        "The model's attribute {attribute} is a function that reads the model through the variable {name!r}, where its "
        "weights are not those that are trained."
    )
    remedy = "Make it a method of the model, or pass it what it reads."


class LazyParameters(ModelInvalid):
    """A lazy module was not called yet."""

    message = "The model's tensor {name!r} belongs to a lazy module and has no shape before the first call."
    remedy = "Call the model on one batch first, such as model(x[:2])."


class ParametersWithoutValues(ModelInvalid):
    """A tensor of the model is on the meta device."""

    message = "The model's tensor {name!r} is on the meta device and has no values."
    remedy = "Call model.to_empty(device='cpu'), then load or initialize its weights."


class ParametersComplex(ModelInvalid):
    """A trained parameter is complex."""

    message = "The model's parameter {name!r} is {dtype}. Complex parameters cannot be trained."
    remedy = "Store its real and imaginary parts as real parameters, and join them with torch.complex in forward."


class InputsInvalid(ModelInvalid):
    """The columns that `inputs` names do not fit the arguments of the model's forward."""


class InputUnknown(InputsInvalid):
    """The model's forward has no argument of that name."""

    message = "The model's forward has no argument {argument!r}; its arguments are {arguments}."
    remedy = "Name one of them in inputs={{argument: column}}."


class InputMissing(InputsInvalid):
    """The model's forward requires an argument for which there is no column."""

    message = "The model's forward requires the argument {argument!r}, and inputs gives it no column."
    remedy = "Add it: inputs={{argument: column}}, with arguments among {arguments}."


class InputsTooMany(InputsInvalid):
    """There are more columns than the model's forward takes by position."""

    message = "inputs names {given} columns by position; the arguments of the model's forward are {arguments}."
    remedy = "Leave some out, or give them by name: inputs={{argument: column}}."


class ModelOutputInvalid(ModelInvalid):
    """The model returned something without a tensor."""

    message = "The model returned a {type}, in which no tensor can be found."
    remedy = "Return a tensor, or a tuple, list, dict or object that holds tensors."


class ParameterDtypesDiffer(ModelInvalid):
    """The trained parameters have several dtypes, or one in which no linear system can be solved."""

    message = "All trained parameters must be float32, or all float64; these have {dtypes}."
    remedy = (
        "Convert the model with .float(), or freeze the others with requires_grad_(False). "
        "For forward passes in half precision there is autocast='bfloat16'."
    )


class ParameterNameTaken(ModelInvalid):
    """Two of the trained parameters have one name."""

    message = "Two of the trained parameters have the same name."
    remedy = "Rename one of them."


class ExampleGradientsUnavailable(ModelInvalid):
    """The outputs have no row for each example, so that no part of the loss is one example's."""

    message = (
        "Gradients of single examples need outputs with a row for each example. The model's have the shapes {shapes}."
    )
    remedy = "Use GaussNewton, or EmpiricalFisher(per='batch')."


class OutputsCoupled(ModelInvalid):
    """The loss couples more outputs than KFAC can differentiate."""

    message = (
        "The training loss couples more than {limit:,} outputs of the model, too many for KFAC to take their second "
        "derivatives one by one."
    )
    remedy = "Use KFAC(fisher='empirical'), or GaussNewton."


# --- losses and metrics ---------------------------------------------------------------------------


class LossInvalid(ProblemInvalid):
    """A loss does not return what it must."""


class LossNotPerExample(LossInvalid):
    """A loss must return one value for each example and does not."""

    message = (
        "Weights per example need one loss per example, but train_loss returned shape {shape} for a batch of {batch}."
    )
    remedy = "Return shape (B,), for example with reduction='none'."


class LossOfSeveralTasks(LossInvalid):
    """The training loss returned several losses, and no kind of hyperparameters weighs them."""

    message = "train_loss returned a {type} where one loss is needed."
    remedy = "Return one tensor, or tune the weights of several losses with LossWeights, which takes a dict."


class TaskLossesInvalid(LossInvalid):
    """The training loss did not return the losses that `LossWeights` weighs."""

    message = "LossWeights: train_loss returned {returned}."
    remedy = "Return {expected}."


class MetricNameReserved(ProblemInvalid):
    """A metric is named like the validation loss."""

    message = "A metric may not be named {name!r}: that is the validation loss."
    remedy = "Rename it."


class MetricUnknown(ProblemInvalid):
    """A study ranks its trials by a metric that the problem does not have."""

    message = "The study ranks its trials by the metric {metric!r}, and the metrics of the problem are: {metrics}."
    remedy = (
        "Add it to metrics={{…}} of the problem, or create a study with one of these. Without metric=…, a study ranks "
        "by the loss."
    )


class MetricNotNumber(ProblemInvalid):
    """A metric returned neither a number nor the pair of a sum and a weight."""

    message = "The metric {metric!r} returned a {type}."
    remedy = "Return a number: a tensor, or a number of Python or NumPy; or the pair (sum, weight) of two scalars."


class SumAndWeightInvalid(ProblemInvalid):
    """A loss or metric returned a pair that is not a sum and a weight."""

    message = "{function} returned a pair of the shapes {shapes}."
    remedy = "Return two scalars: the sum over the examples of the batch, and the weight by which it is divided."


class BilevelIncomplete(ProblemInvalid):
    """A problem as functions lacks those that evaluate it."""

    message = "A Bilevel needs the functions predict and val_loss, or evaluate."
    remedy = "Pass predict, val_loss and metrics; or evaluate, which returns {{'loss': mean, metric: mean, …}}."


class PositionsMissing(ProblemInvalid):
    """Validation examples are to train, too, and a hyperparameter has entries for the training examples only."""

    message = (
        "The hyperparameter {name!r} has an entry for each training example, and none for validation examples, which "
        "are to train, too."
    )
    remedy = 'Train on the training data alone: train_on="train", or on="train" of trial.confirm.'


class OutputNotJoinable(ProblemInvalid):
    """A metric needs an output for all examples of a split, and chunks of the split have it in different forms."""

    message = (
        "The metric {metric!r} reads an output of shape {shapes} on chunks of the examples. It does not have one row "
        "for each example, so that the output for all examples cannot be put together."
    )
    remedy = "Return the pair (sum, weight) of two scalars from the metric, which are added up over the chunks."


# --- hyperparameters ------------------------------------------------------------------------------


class HparamsInvalid(ProblemInvalid):
    """The hyperparameters do not fit the problem."""


class HparamsMissing(HparamsInvalid):
    """There is nothing to tune."""

    message = "There is no hyperparameter to tune."
    remedy = "Pass hparams=…, for example L2(model)."


class HparamsNameTaken(HparamsInvalid):
    """Two kinds of hyperparameters have one name."""

    message = "Two kinds of hyperparameters are named {name!r}."
    remedy = "Pass another name=… to one of them, or rename the tensor in the dict."


class TaskWeightsTwice(HparamsInvalid):
    """Two kinds of hyperparameters weigh the losses of tasks."""

    message = "{kind} occurs twice, and the training loss returns one set of losses."
    remedy = "Leave one out."


class TensorSuppliedTwice(HparamsInvalid):
    """Two kinds of hyperparameters supply one tensor of the model."""

    message = "Two kinds of hyperparameters supply the model's tensor {name!r}."
    remedy = "Leave one out."


class TensorNotReplaceable(HparamsInvalid):
    """Hyperparameters supply a tensor that the model trains or does not have."""

    message = (
        "A kind of hyperparameters supplies {name!r}, which is neither a buffer nor a frozen parameter of the model."
    )
    remedy = "Register it with register_buffer, freeze it with requires_grad_(False), or supply another."


class InitialValuesOutOfBounds(HparamsInvalid):
    """Initial values lie outside of the bounds."""

    message = (
        "The initial values of {name!r} run from {low:g} to {high:g} and do not lie between {least:g} and {largest:g}."
    )
    remedy = "Bounds are in the units of the initial values, before the transform."


class MadeForAnotherModel(HparamsInvalid):
    """The hyperparameters were made for a model with other parts."""

    message = "{kind} was made for another model than the problem's."
    remedy = "Make it from that model, after freezing and replacing layers."


class MadeForPart(HparamsInvalid):
    """The hyperparameters were made from a part of the model."""

    message = "{kind} was made from the model's part {part!r}, not from the model."
    remedy = "Make it from the model, and choose the part: {kind}(model, only={only})."


class PartNotFound(HparamsInvalid):
    """No trained parameter is in a part of the model that a kind of hyperparameters names."""

    message = "{kind}(only={part!r}): no trained parameter begins with {part!r}; the parts are {parts}."
    remedy = "Name one of them, or the first parts of a parameter's name."


class ExampleCountDiffers(HparamsInvalid):
    """There is not one hyperparameter for each training example."""

    message = "{kind} was made for {expected:,} training examples, but the training split has {n:,}."
    remedy = "Give it one entry for each of them."


class DropoutNotFound(HparamsInvalid):
    """The model has no dropout layer."""

    message = (
        "Dropout found no nn.Dropout in the model. Rates inside of F.dropout, or in the dropout=… of recurrent and "
        "attention layers, are out of its reach."
    )
    remedy = "Add nn.Dropout modules in their place."


class DropoutRateOutOfRange(HparamsInvalid):
    """A dropout rate is 0, 1 or beyond."""

    message = "The rate of the dropout layer {layer!r} is {rate}, and a rate is tuned strictly between 0 and 1."
    remedy = "Pass init=…, such as 0.1."


class SubmoduleNotFound(HparamsInvalid):
    """The model has no such part."""

    message = "Submodule: the model has no part {path!r}; its parts are {parts}."
    remedy = "Name one of them."


class SubmoduleNotFrozen(HparamsInvalid):
    """The inner problem would train a part that is tuned."""

    message = "Submodule: {name!r} requires a gradient, so the inner problem would train it, too."
    remedy = "Freeze the part first: model.{path}.requires_grad_(False)."


class NothingToTune(HparamsInvalid):
    """A network or part that should be tuned has no parameters."""

    message = "{kind}: {part} has no parameters to tune."
    remedy = "Give it parameters that require gradients."


class NetworkOutputInvalid(HparamsInvalid):
    """A network of hyperparameters returns another shape than it must."""

    message = "{kind}: its network turned shape {inputs} into {outputs}."
    remedy = "It must return {expected}."


class NetworkHasMemory(HparamsInvalid):
    """A network of hyperparameters writes into its buffers."""

    message = "{kind}: its network writes into its buffer {buffer!r} when it is called, as BatchNorm does in training."
    remedy = "Use GroupNorm, or put that part into evaluation mode with .eval()."
