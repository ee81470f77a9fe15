"""A network whose parameters are hyperparameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from nestor.errors import HparamNotFound, NetworkHasMemory, NothingToTune
from nestor.program_format import EntryNames
from nestor_engine.hparams.axes import axes_of_weights
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
        self.entry_names = {
            f"{name}.{parameter}": EntryNames(parameter, axes_of_weights(p.ndim)) for parameter, p in tuned.items()
        }

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

    def module(self, values: Mapping[str, Any]) -> nn.Module:
        """The network as a module of its own, with copies of these hyperparameters as its parameters.

        Raises:
            HparamNotFound: a hyperparameter of this network is missing.
        """
        tensors = dict(self._constants)
        for parameter in self._parameters:
            name = f"{self._name}.{parameter}"
            if name not in values:
                raise HparamNotFound(name=name, hparams=list(values))
            tensors[parameter] = values[name]
        copies = {name: t.detach().clone() for name, t in tensors.items()}
        memo: dict[int, Any] = {id(buffer): copies[name] for name, buffer in self._module.named_buffers()}
        memo |= {
            id(p): nn.Parameter(copies[name], requires_grad=name in self._parameters)
            for name, p in self._module.named_parameters()
        }
        return copy.deepcopy(self._module, memo)  # which takes what is in the memo in place of the meta tensors
