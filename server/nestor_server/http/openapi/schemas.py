"""Completes the schemas of /openapi.json: they say what the server takes, and clients can be generated from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from pydantic.json_schema import models_json_schema

from nestor.schemas import Step
from nestor_server.http.problem_documents import ProblemDocument

Json = dict[str, Any]

EXAMPLES = {"uuid": "019a4c6e-5f3a-7c5e-8f0e-2d1c3b4a5968", "date-time": "2026-01-31T12:00:00Z"}  # by format
REFERENCES = "#/components/schemas/{model}"
LARGEST = 2**63 - 1
NUL, TEXT = r"\u0000", r"^[^\u0000]*$"
RECORDED_AT = {"recorded_at": {"type": "string", "format": "date-time", "description": "when it was recorded, in UTC"}}
STORABLE = {"$ref": REFERENCES.format(model="Storable")}
# As `nestor.schemas.storable` checks it, but for the depth. With `not`, generators of clients take it for any value.
_NOT_STORABLE = [
    {"type": "string", "pattern": NUL},
    {"type": "integer", "exclusiveMinimum": LARGEST},
    {"type": "integer", "exclusiveMaximum": -LARGEST},
    {"type": "array", "contains": {"not": STORABLE}},
    {"type": "object", "not": {"additionalProperties": STORABLE, "propertyNames": {"pattern": TEXT}}},
]


def complete(described: Json) -> None:
    """Add schemas that no route names, and complete all."""
    components: Json = described["components"]["schemas"]
    named = [(Step, "serialization"), (ProblemDocument, "serialization")]
    _, added = models_json_schema(cast(Any, named), ref_template=REFERENCES)
    components |= added["$defs"]
    components["Storable"] = {
        "description": "Any JSON without NUL characters, and with integers below 2^63 in absolute value.",
        "not": {"anyOf": _NOT_STORABLE},
    }
    _describe_columns(components)
    for schema in components.values():
        required = schema.get("required", [])
        for key, value in schema.get("properties", {}).items():
            _say_default(value, required=key in required)
            _say_unit(value)
    for operations in described["paths"].values():
        for operation in operations.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                media["schema"].pop("default", None)
    for schema in _all(list(_requests(described))):
        _exclude_what_cannot_be_stored(schema)
    for schema in _all(described):
        _write_integers(schema)
        if "examples" not in schema and (example := EXAMPLES.get(schema.get("format", ""))):
            schema["examples"] = [example]


def complete_parameter(parameter: Json, known: Json) -> None:
    """Describe a parameter of a path, whose name says what it is, and write headers as usual.

    Args:
        known: description and example of a parameter of this name.
    """
    if parameter["in"] == "path" and "description" in known:
        parameter.setdefault("description", known["description"])
        if "example" in known:
            parameter["schema"].setdefault("examples", [known["example"]])
    if parameter["schema"].get("default") == []:
        del parameter["schema"]["default"]
    if len(others := [one for one in parameter["schema"].get("anyOf", ()) if one != {"type": "null"}]) == 1:
        del parameter["schema"]["anyOf"]  # a parameter is left out, and cannot be null
        parameter["schema"] |= others[0]
    if parameter["in"] == "header":  # FastAPI writes them in lower case
        parameter["name"] = "-".join(word.capitalize() for word in parameter["name"].split("-"))


def _describe_columns(components: Json) -> None:
    """The columns of steps are arrays of the fields of a step."""
    columns = components["StepColumns"]["properties"]["columns"]
    columns["properties"] = {
        name: {"type": "array", "items": _or_null(field), "description": field["description"]}
        for name, field in (components["Step"]["properties"] | RECORDED_AT).items()
    }


def _or_null(schema: Json) -> Json:
    """The schema of a field's values in steps of all versions, of which earlier ones recorded fewer fields."""
    given = {
        key: value
        for key, value in schema.items()
        if key not in ("title", "description", "default", "examples", "unit")
    }
    alternatives = given.get("anyOf", [given])
    return {"anyOf": alternatives if {"type": "null"} in alternatives else [*alternatives, {"type": "null"}]}


def _say_default(schema: Json, *, required: bool) -> None:
    """Say a default that is an object or an array in words. Generators of clients refuse it as a value."""
    default = schema.get("default")
    if required:
        schema.pop("default", None)
    elif isinstance(default, dict | list):
        del schema["default"]
        words = f"default: {json.dumps(default)}" if default else "default: empty"
        schema["description"] = f"{schema['description']}; {words}"


def _say_unit(schema: Json) -> None:
    if unit := schema.pop("unit", None):
        schema["x-unit"] = unit
        if unit not in schema["description"]:
            schema["description"] = f"{schema['description']} ({unit})"


def _requests(described: Json) -> Iterator[Json]:
    """The schemas of bodies and of query parameters, and those inside of them."""
    operations = [one for operations in described["paths"].values() for one in operations.values()]
    pending: list[Any] = [operation.get("requestBody", {}).get("content", {}) for operation in operations]
    yield from (
        parameter["schema"]
        for operation in operations
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    )
    seen: set[str] = set()
    while pending:
        for part in _all(pending.pop()):
            name = part.get("$ref", "").rpartition("/")[2]
            if name and name not in seen:
                seen.add(name)
                pending.append(described["components"]["schemas"][name])
                yield described["components"]["schemas"][name]


def _exclude_what_cannot_be_stored(schema: Json) -> None:
    if schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "const", "format"}:
        schema["pattern"] = TEXT
    if schema.get("additionalProperties") is True:
        schema["additionalProperties"] = STORABLE
    if isinstance(schema.get("additionalProperties"), dict):
        schema.setdefault("propertyNames", {}).setdefault("pattern", TEXT)


def _write_integers(schema: Json) -> None:
    """FastAPI writes the limits of integers as floats."""
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(name), float) and schema[name].is_integer():
            schema[name] = int(schema[name])


def _all(part: Any) -> Iterator[Json]:
    """Every object in the document, schemas among them."""
    if isinstance(part, dict):
        yield (inside := cast(Json, part))
        for inner in list(inside.values()):
            yield from _all(inner)
    elif isinstance(part, list):
        for inner in cast("list[Any]", part):
            yield from _all(inner)
