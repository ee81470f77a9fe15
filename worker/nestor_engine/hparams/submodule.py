"""The parameters of a submodule as hyperparameters."""

from __future__ import annotations

from torch import nn

from nestor.errors import MadeForAnotherModel, NothingToTune, SubmoduleNotFound, SubmoduleNotFrozen
from nestor.program_format import EntryNames
from nestor_engine.hparams.axes import axes_of_weights
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Tensors
from nestor_engine.problem.model.wrappers import unwrapped


class Submodule(Hyperparameters):
    """The parameters of a submodule, to which the others respond: the leader of a Stackelberg game [1].

    The inner problem trains the other parameters, the outer problem these, and both losses see the model's
    outputs. Examples are a generator whose discriminator is trained, and a representation [2] whose
    classifier is trained. Named `<path>.<parameter>`; they start from the model's values.

    Args:
        model: the problem's model.
        path: path of the submodule in the model, such as "generator". Its parameters must not require gradients, so
            that the inner problem does not train them: `model.generator.requires_grad_(False)`.

    Raises:
        ProblemInvalid: the submodule does not exist, has no parameters, or the inner problem would train them, too.

    [1] Fiez, Chasnov and Ratliff (2020), Implicit learning dynamics in Stackelberg games.
    [2] Franceschi et al. (2018), Bilevel programming for hyperparameter optimization and meta-learning.
    """

    def __init__(self, model: nn.Module, path: str) -> None:
        self._path, model = path, unwrapped(model)
        try:
            parameters = dict(model.get_submodule(path).named_parameters(path))
        except AttributeError as error:
            raise SubmoduleNotFound(path=path, parts=[name for name, _ in model.named_children()]) from error
        if not parameters:
            raise NothingToTune(kind="Submodule", part=f"the model's part {path!r}")
        self._expect_frozen(parameters)
        self.init = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.transforms = {}
        self.entry_names = {name: EntryNames(name, axes_of_weights(p.ndim)) for name, p in parameters.items()}

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the model has these parameters, with these shapes, and that none of them requires gradients.

        Raises:
            MadeForAnotherModel: names or shapes differ.
            SubmoduleNotFrozen: the inner problem would train a parameter.
        """
        given = {name: p for name, p in model.named_parameters() if name in self.init}
        if {name: p.shape for name, p in given.items()} != {name: value.shape for name, value in self.init.items()}:
            raise MadeForAnotherModel(kind=f"Submodule({self._path!r})")
        self._expect_frozen(given)

    def tensors(self, values: Tensors) -> Tensors:
        """`<path>.<parameter>` → the hyperparameter, which replaces the frozen parameter."""
        return {name: values[name] for name in self.init}

    def _expect_frozen(self, parameters: dict[str, nn.Parameter]) -> None:
        if trained := [name for name, parameter in parameters.items() if parameter.requires_grad]:
            raise SubmoduleNotFrozen(name=trained[0], path=self._path)
