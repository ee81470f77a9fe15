"""A network whose parameters are hyperparameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from nestor.errors import NetworkHasMemory, NothingToTune
from nestor_engine.objective import Tensors
from nestor_engine.problem.meta_copy import meta_copy


class Network:
    """The module as a function of hyperparameters named `<name>.<parameter>`; its buffers are constants.

    The module is copied. Parameters that do not require gradients are constants, too.

    Args:
        kind: whose network this is, for messages.
    """

    def __init__(self, kind: str, module: nn.Module, name: str) -> None:
        self._kind, self._name = kind, name
        tuned = {parameter: p for parameter, p in module.named_parameters() if p.requires_grad}
        if not tuned:
            raise NothingToTune(kind=kind, part="its network")
        self._parameters = tuple(tuned)
        self._constants: Tensors = {
            constant: t.detach().clone()
            for constant, t in (*module.named_parameters(), *module.named_buffers())
            if constant not in tuned
        }
        self._module = meta_copy(module)
        self.init = {f"{name}.{parameter}": p.detach().clone() for parameter, p in tuned.items()}

    def __call__(self, values: Tensors, *inputs: Tensor) -> Any:
        """The network's output with these hyperparameters.

        Raises:
            ProblemInvalid: the network wrote into a buffer, so its outputs would depend on earlier calls.
        """
        tensors = {parameter: values[f"{self._name}.{parameter}"] for parameter in self._parameters}
        copies = {name: t.to(inputs[0].device, copy=True) for name, t in self._constants.items()}
        versions = {name: copy._version for name, copy in copies.items()}
        output = functional_call(self._module, (tensors, copies), inputs)
        if changed := [name for name, copy in copies.items() if copy._version != versions[name]]:
            raise NetworkHasMemory(kind=self._kind, buffer=changed[0])
        return output
