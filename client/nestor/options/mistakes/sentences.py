"""Says in one sentence, and by one class, which field of an option or a schema is wrong and what it may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from nestor.errors import (
    ChoiceUnknown,
    ConfigInvalid,
    NestorError,
    OptionInvalid,
    OptionMissing,
    OptionOutOfRange,
    OptionTypeWrong,
    OptionUnknown,
    shown,
)
from nestor.options.mistakes.annotations import BOUNDS, Place, limits_of, models_of, walk, words_of

E = TypeVar("E", bound=Mapping[str, Any])

ABSENT = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for a field that does not exist
_MISSING = ("missing", "missing_argument")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_LENGTHS = ("string_too_short", "string_too_long")
_CLASSES: Mapping[str, type[OptionInvalid]] = {
    **dict.fromkeys(ABSENT, OptionUnknown),
    **dict.fromkeys(_MISSING, OptionMissing),
    **dict.fromkeys((*_OUT_OF_RANGE, *_LENGTHS, "finite_number", "too_short", "too_long"), OptionOutOfRange),
    **dict.fromkeys(("literal_error", "union_tag_invalid", "enum"), ChoiceUnknown),
    **dict.fromkeys(("union_tag_not_found", "option_type", "is_instance_of"), OptionTypeWrong),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "True or False",
    "string": "a string",
    "tuple": "a list",
    "dict": "a dictionary",
    "uuid": "a UUID",
}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One field that is wrong.

    Attributes:
        cls: the error that is raised if this is the only mistake.
        field: the path to the field, with dots.
        option: the field with its value, as a sentence begins: `Neumann(terms=-1)`.
        rule: what is wrong, without a period.
        context: further values in the sentence of `cls`.
    """

    cls: type[OptionInvalid]
    field: str
    option: str
    rule: str
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def error(self) -> NestorError:
        """The mistake as an error of its own class."""
        given: dict[str, Any] = {"option": self.option, "field": self.field, **self.context}
        if "{rule}" in self.cls.message:
            given["rule"] = self.rule
        return self.cls(**given)

    def entry(self) -> dict[str, str]:
        """The mistake as one of the `errors` of an error that lists several."""
        return {"field": self.field, "code": self.cls.code(), "message": str(self.error())}


def violation(cls: type[OptionInvalid], **context: Any) -> PydanticCustomError:
    """What a validator raises so that the user gets a `cls`; the error begins with the option by itself."""
    rule = f"{cls.message} {cls.remedy}".removeprefix("{option}: ").rstrip(" .")
    return PydanticCustomError(cast(Any, cls.code()), cast(Any, rule), context)


def inside(part: str, error: ValueError) -> PydanticCustomError:
    """`error` of a validator, with the name of the part of the option where it lies."""
    if isinstance(error, PydanticCustomError):
        context = {**(error.context or {}), "part": part}
        return PydanticCustomError(cast(Any, error.type), cast(Any, f"{{part}}: {error.message_template}"), context)
    return PydanticCustomError("value_error", "{part}: {reason}", {"part": part, "reason": str(error)})


def mistakes(model: Any, error: ValidationError, *, within: str = "") -> list[Mistake]:
    """Each field that is wrong, once.

    Args:
        model: the schema or option that was to be made.
        within: the name of the option that the user wrote: `Neumann(terms=-1): …` in place of `terms=-1: …`.
    """
    found: dict[str, Mistake] = {}
    for one in relevant(error.errors(include_url=False)):
        place = walk(model, list(one["loc"]))
        name = ".".join(map(str, place.path))
        mistake = _mistake(name, one, place, within)
        if not mistake.option:  # of the whole
            mistake = dataclasses.replace(mistake, option=model.__name__)
        found.setdefault(name, mistake)  # a union reports each alternative
    return list(found.values())


def relevant(details: Sequence[E]) -> list[E]:
    """The errors of pydantic without those that follow from others: a list whose only item is wrong is not short."""
    parents = {one["loc"][:length] for one in details for length in range(len(one["loc"]))}
    return [one for one in details if one["type"] != "too_short" or one["loc"] not in parents]


def as_error(found: list[Mistake], category: type[NestorError] = ConfigInvalid) -> NestorError:
    """What to raise: a mistake's own class if it is the only one, else the category, whose `errors` lists them.

    Args:
        category: raised for a single mistake, too, unless its own class is a kind of it.
    """
    if len(found) == 1 and issubclass(found[0].cls, category):
        return found[0].error()
    reason = " ".join(str(one.error()) for one in found)
    return category(reason=reason, errors=[one.entry() for one in found])


def violated(name: str, error: ValueError) -> NestorError:
    """The error for the option `name` whose fields contradict each other."""
    context = (error.context or {}) if isinstance(error, PydanticCustomError) else {}
    kind = error.type if isinstance(error, PydanticCustomError) else ""
    return Mistake(class_of(kind), name, name, str(error), context).error()


def class_of(kind: str) -> type[OptionInvalid]:
    """The error for what pydantic, or a validator of ours, calls `kind`."""
    declared = NestorError.known.get(kind)
    if declared is not None and issubclass(declared, OptionInvalid):
        return declared
    default = OptionTypeWrong if kind.endswith(("_type", "_parsing", "_from_float")) else OptionInvalid
    return _CLASSES.get(kind, default)


def _mistake(name: str, error: ErrorDetails, place: Place, within: str) -> Mistake:
    cls = class_of(error["type"])
    if cls is OptionUnknown:
        start = f"{within}({name}={shown(error['input'])})" if within else name
        return Mistake(cls, name, start, place.moved or "there is no such option")
    if cls is OptionMissing:
        return Mistake(cls, name, name, "it is missing")
    if error["loc"][-1:] == ("[key]",):
        return Mistake(OptionTypeWrong, name, name, f"the name {shown(error['input'])} must be a string")
    value = f"{name}={shown(error['input'])}" if name else ""
    start = f"{within}({value})" if within and value else value or within
    context = dict(error.get("ctx", {})) if error["type"] == cls.code() else {}
    if part := context.pop("part", None):
        start = f"{start}: {part}" if start else part
        return Mistake(cls, name, start, expected(error, place.annotations).removeprefix(f"{part}: "), context)
    return Mistake(cls, name, start, expected(error, place.annotations), context)


def expected(error: Mapping[str, Any], annotations: list[Any]) -> str:
    """What a field may hold, from pydantic's `error` about it: "it must be …".

    Args:
        annotations: those of the field, for its limits; without them pydantic's own words have the limit.
    """
    kind = error["type"].split("_")[0]
    limits: dict[str, Any] = {}
    for name, limit in limits_of(annotations):
        limits.setdefault(name, limit)
    bounds = " and ".join(f"{word} {limits[name]}" for name, word in BOUNDS.items() if name in limits)
    words = [word for one in annotations for word in words_of(one)]
    choice = "".join(f", or {word!r}" for word in words)
    if error["type"] in _OUT_OF_RANGE and bounds:
        return f"it must be {bounds}{choice}"
    if error["type"] in _LENGTHS and limits:
        return f"it must have {limits.get('min_length', 0)} to {limits.get('max_length', 'any number of')} characters"
    if error["type"] == "too_long":
        return f"it must have at most {error['ctx']['max_length']} entries"
    if error["type"] == "string_unicode":
        return "it must not contain lone surrogates, which cannot be encoded"
    if error["type"] == "literal_error":
        return f"it must be {error.get('ctx', {}).get('expected', 'one of the words that are allowed')}"
    if kind in _KINDS:
        return f"it must be {_KINDS[kind]}{f', {bounds}' if bounds else ''}{choice}"
    if error["type"] == "union_tag_invalid":
        return f"it must be one of {error.get('ctx', {}).get('expected_tags')}"
    if error["type"] in ("union_tag_not_found", "option_type"):
        return error["msg"].rstrip(".")
    if error["type"] == "dataclass_type":
        models = [model for one in annotations for model in models_of(one)]
        return " or ".join(f"pass {model.expected}" for model in models)
    if error["type"] == "model_type":
        return f"it must be a {error.get('ctx', {}).get('class_name', 'dictionary')}"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should", "it must", 1)
