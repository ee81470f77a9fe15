"""The problems that workers build by themselves, as `GET /presets` lists them."""

from __future__ import annotations

from typing import Annotated, Any

from nestor.options.base import about
from nestor.options.presets import check_params
from nestor.schemas.base import Schema


class PresetInfo(Schema):
    """A preset, which every worker builds."""

    name: Annotated[str, about("the data set that it is about", example="digits")]
    description: Annotated[
        str, about("one sentence", example="A multilayer perceptron that recognizes handwritten digits.")
    ]
    json_schema: Annotated[
        dict[str, Any], about('JSON Schema of the field "preset" of a problem', example={"type": "object"})
    ]


class ParameterInfo(Schema):
    """A parameter of a factory."""

    name: Annotated[str, about('the key in "params"', example="width")]
    annotation: Annotated[str | None, about("its type as the factory's source says it, such as int", example="int")] = (
        None
    )
    required: Annotated[bool, about("whether a value must be given")]
    default: Annotated[
        Any, about("as text if JSON cannot hold it; the default of `seed` is the trial's", example=8)
    ] = None


class EntryPointInfo(Schema):
    """A factory of an installed package."""

    entry_point: Annotated[str, about('the field "entry_point" of a problem', example="nestor_moons:moons")]
    package: Annotated[str, about("name and version of the package", example="nestor-moons 1.0")]
    description: Annotated[str, about("the first line of the factory's docstring")] = ""
    parameters: Annotated[tuple[ParameterInfo, ...], about("from the factory's signature")] = ()
    takes_others: Annotated[bool, about("whether the factory takes further parameters, as **kwargs")] = False
    error: Annotated[
        str | None,
        about(
            "why no trial of it can run; null: trials can run", example="ModuleNotFoundError: No module named 'timm'"
        ),
    ] = None

    def check(self, params: dict[str, Any]) -> None:
        """Check the names in `params` against the signature.

        Raises:
            EntryPointParamUnknown, EntryPointParamMissing
        """
        required = {parameter.name: parameter.required for parameter in self.parameters}
        check_params(self.entry_point, params, required, takes_others=self.takes_others)


class Presets(Schema):
    """What a problem can be besides an uploaded program."""

    presets: Annotated[tuple[PresetInfo, ...], about("what every worker builds")]
    entry_points: Annotated[tuple[EntryPointInfo, ...], about("what packages on running workers build, by name")]
