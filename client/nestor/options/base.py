"""What makes a class an option: a frozen value, declared once, from which wire, validation and reference follow.

A family is an abstract class such as `Solver`; its options are chosen by a tag. The tag is the class's name in snake
case, so that `ConjugateGradient(steps=4)` is written `{"kind": "conjugate_gradient", "steps": 4}` in JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from nestor.errors import ConfigInvalid, NestorError, OptionGivenTwice, OptionInvalid, TooManyArguments, shown
from nestor.options.mistakes.sentences import as_error, mistakes, violated

MAX_STEPS = 2**31 - 1  # of a trial
MAX_SIZE = 10_000  # of a rank, or of a number of products in one outer step

Class = TypeVar("Class", bound="type[Option]")
_FORBID = ConfigDict(extra="forbid")


def about(description: str, *, unit: str | None = None, example: Any = None, **limits: float) -> Any:
    """What a field means, in one line, with its unit, an example, and its range (`ge`, `gt`, `le`, `lt`)."""
    extra: dict[str, Any] | None = {"unit": unit} if unit else None
    examples = None if example is None else [example]
    return Field(description=description, examples=examples, json_schema_extra=extra, **cast(Any, limits))


# Strict: a user who writes "5" for 5, or True for 1, has mixed up two options.
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1, le=MAX_STEPS)]
Size = Annotated[Whole, Field(ge=1, le=MAX_SIZE)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Momentum = Annotated[Real, Field(ge=0, lt=1)]
Fraction = Annotated[Real, Field(ge=0, le=1)]

# Words in place of a number. In JSON Schema each is an enumeration of one word, because openapi-python-client takes a
# constant for the only value of a union.
Auto = Annotated[Literal["auto"], WithJsonSchema({"type": "string", "enum": ["auto"]})]
Best = Annotated[Literal["best"], WithJsonSchema({"type": "string", "enum": ["best"]})]

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _number(value: object) -> object:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _number_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# A measured number, which may be NaN or infinite. JSON has no such numbers: there it is a string.
Number = Annotated[
    float,
    BeforeValidator(_number),
    PlainSerializer(_number_json, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": [*NOT_FINITE]}]}),
]


class Option:
    """A part of how to tune, without the code that computes it: `nestor_engine.implementations` adds that.

    Two options are equal when their tags and fields are, so that an implementation equals what it implements.

    Attributes:
        tag: names the option among those of its family, in JSON.
        tag_key: the JSON field that holds the tag.
        expected: what to pass where another object was passed, as the end of a sentence.
        former: names of former fields, with what to write now.
        supports_sharding: whether several devices can compute it together.
    """

    tag: ClassVar[str] = ""
    tag_key: ClassVar[str] = "kind"
    expected: ClassVar[str] = ""
    former: ClassVar[Mapping[str, str]] = {}
    is_public: ClassVar[bool] = True  # a name of `nestor`
    members: ClassVar[dict[str, type[Option]]] = {}  # of a family, by tag
    supports_sharding: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "tag" not in vars(cls) and not cls.tag:
            cls.members = {}  # a family, until `option` gives it a tag

    def __post_init__(self) -> None:
        """Hook of implementations."""

    def check(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: they contradict each other; made by `violation` if an error class exists for it.
        """

    def parts(self) -> list[Option]:
        """This option and those inside of it."""
        values = [getattr(self, f.name) for f in dataclasses.fields(cast(Any, self))]
        return [self, *(part for value in values if isinstance(value, Option) for part in value.parts())]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Option):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, f.name) for f in dataclasses.fields(cast(Any, self)))
        return (self.tag_key, self.tag, values)

    # --- as pydantic sees it ----------------------------------------------------------------------

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        if cls.tag:
            return handler(source)
        # Looked up when a value comes, for options may be declared after the classes that hold them.
        return core_schema.no_info_plain_validator_function(cls._parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        if not cls.tag:
            return handler(cast(Any, cls._adapter().core_schema))
        reference = handler(schema)
        described: JsonSchemaValue = handler.resolve_ref_schema(reference)
        if cls.families():
            described["required"] = [cls.tag_key, *described.get("required", [])]
        return reference

    @classmethod
    def families(cls) -> list[type[Option]]:
        """The families that this option belongs to."""
        families = (base for base in cls.__mro__ if issubclass(base, Option) and not base.tag)
        return [family for family in families if cls in family.members.values()]

    @classmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        """Validates what has a tag, as one of this family's options."""
        members = tuple(cls.members.values())
        if cls not in _ADAPTERS or _ADAPTERS[cls][0] != members:
            union: Callable[[Any, Any], Any] = lambda one, other: one | other
            chosen: Any = functools.reduce(union, members)
            if len(members) > 1:
                chosen = Annotated[chosen, Field(discriminator=cls.tag_key)]
            _ADAPTERS[cls] = members, TypeAdapter(chosen)
        return _ADAPTERS[cls][1]

    @classmethod
    def _parse(cls, value: Any) -> Any:
        """An option of this family from an instance, from JSON with a tag, or from one of the short spellings.

        "hessian" and {"neumann": {"terms": 3}} stand for {"kind": "hessian"} and {"kind": "neumann", "terms": 3}.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {cls.tag_key: value}
        if not isinstance(value, dict):
            raise PydanticCustomError("option_type", "pass {expected}", {"expected": cls.expected})
        written = cast(dict[Any, Any], value)
        if len(written) == 1 and cls.tag_key not in written:
            ((tag, options),) = written.items()
            if isinstance(options, dict):
                written = {cls.tag_key: tag, **cast(dict[Any, Any], options)}
        return cls._adapter().validate_python(written)


_ADAPTERS: dict[type[Option], tuple[tuple[type[Option], ...], TypeAdapter[Any]]] = {}


class Value(BaseModel):
    """A schema that users make themselves: their mistakes are Nestor's errors, not pydantic's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    former: ClassVar[Mapping[str, str]] = {}  # names of former fields, with what to write now
    invalid: ClassVar[type[NestorError]] = ConfigInvalid  # raised for several mistakes

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, *by_position: Any, **values: Any) -> None:
            """
            Raises:
                ConfigInvalid: a field is missing, unknown or outside of its range; the sentence says which.
            """
            if by_position:
                name, first = type(self).__name__, next(iter(type(self).model_fields), "")
                rule = f"pass its fields by name, such as {first}=…"
                raise OptionInvalid(option=f"{name}({shown(by_position[0])})", rule=rule)
            try:
                super().__init__(**{field: plain(value) for field, value in values.items()})
            except ValidationError as error:
                raise as_error(mistakes(type(self), error), self.invalid) from None

        __init__.__pydantic_base_init__ = True  # inside another schema, its mistakes are reported with the others


def snake_case(name: str) -> str:
    """A class's name as a tag: ConjugateGradient → conjugate_gradient."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_PLAIN = {bool, int, float, type(None)}  # not subclasses: NumPy's float64 is a float


def plain(value: Any) -> Any:
    """Numbers of NumPy, torch and other libraries as those of Python; anything else as it is."""
    if type(value) in _PLAIN or isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        items = [plain(item) for item in cast("list[Any]", value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in cast("Mapping[Any, Any]", value).items()}
    for convert in (operator.index, float):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return convert(value)
    return value


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def family(cls: Class) -> Class:
    """Make a class the family of the options that inherit from it: with the fields that they share, and no tag."""
    return cast(Class, dataclasses.dataclass(frozen=True, eq=False)(cls))


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def option(cls: Class) -> Class:
    """Declare an option: register it under its tag with its families, and validate what it is made of."""
    families = [base for base in cls.__mro__[1:] if issubclass(base, Option) and base is not Option]
    cls.tag = cls.tag or snake_case(cls.__name__.removesuffix("Preset"))
    cls.__annotations__[cls.tag_key] = Annotated[Literal[cls.tag], Field(description="chooses this option")]
    setattr(cls, cls.tag_key, Field(default=cls.tag, kw_only=True, repr=False))
    declared = pydantic.dataclasses.dataclass(frozen=True, eq=False, config=_FORBID)(cls)
    assert declared is cls
    cls.__init__ = _constructor(cls, cls.__init__)
    for base in families:
        base.members[cls.tag] = cls
    OPTIONS[cls.__name__] = cls
    return cls


OPTIONS: dict[str, type[Option]] = {}  # all that are declared, by name


def _constructor(cls: type[Option], construct: Callable[..., None]) -> Callable[..., None]:
    """`construct` with its arguments by name, and Nestor's own errors in place of pydantic's."""
    fields = [f for f in dataclasses.fields(cast(Any, cls)) if f.init]
    positional = [f.name for f in fields if not f.kw_only]

    def __init__(self: Option, *args: Any, **options: Any) -> None:
        name = type(self).__name__
        if len(args) > len(positional):
            raise TooManyArguments(option=name, limit=len(positional), names=positional)
        given = dict(zip(positional, args, strict=False))
        if twice := sorted(given.keys() & options.keys()):
            raise OptionGivenTwice(option=f"{name}: {twice[0]}", first="by position", second="by name")
        try:
            construct(self, **{field: plain(value) for field, value in (given | options).items()})
            self.check()
        except ValidationError as error:
            raise as_error(mistakes(cls, error, within=name)) from None
        except ValueError as error:
            raise violated(name, error) from None

    return __init__
