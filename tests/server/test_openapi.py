"""/openapi.json is complete, so that a client can be written or generated from it. A failure says what to add where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi.routing import iter_route_contexts

from nestor.errors import PROBLEM_JSON
from nestor.schemas import Scope
from nestor_server.app import create_app
from nestor_server.http.openapi.document import PARAMETERS, TAGS
from nestor_server.settings import Settings
from testbed.contract import document

Json = dict[str, Any]

DOCUMENT = document()
SCHEMAS: Json = DOCUMENT["components"]["schemas"]
PROPERTIES = [
    pytest.param(name, key, value, id=f"{name}.{key}")
    for name, schema in SCHEMAS.items()
    for key, value in schema.get("properties", {}).items()
]
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
BY_NAME: list[tuple[str, Json]] = [
    (operation["operationId"], operation)
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
]


def says_its_values(schema: Json) -> bool:
    """Whether a type shows what its values look like, so that it needs no example.

    This is so for booleans, enumerations, other schemas, which have examples of their own, lists of these, and what has
    a default, which is an example. UUIDs and times get one from `EXAMPLES` in http/openapi/schemas.py.
    """
    if schema.keys() & {"enum", "const", "$ref", "default", "examples"} or schema.get("type") in ("boolean", "null"):
        return True
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        return all(map(says_its_values, alternatives))
    inside = schema.get("items", schema.get("additionalProperties"))
    return isinstance(inside, dict) and inside != SCHEMAS["Storable"] and says_its_values(inside) and bool(inside)


def is_documented(schema: Json, description: str | None) -> list[str]:
    missing = [] if description else ["a description"]
    return missing if says_its_values(schema) else [*missing, "an example"]


@pytest.mark.parametrize(("name", "key", "schema"), PROPERTIES)
def test_every_field_has_a_description_and_an_example(name: str, key: str, schema: Json):
    missing = is_documented(schema, schema.get("description"))
    assert not missing, f"add {missing} to {name}.{key}: Annotated[…, about('…', example=…)]"


@pytest.mark.parametrize(("name", "key", "schema"), PROPERTIES)
def test_every_example_is_one(name: str, key: str, schema: Json):
    validator = jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    for example in schema.get("examples", ()):
        errors = [error.message for error in validator.iter_errors(example)]
        assert not errors, f"change `example=` of {name}.{key}: {errors}"


@pytest.mark.parametrize(("name", "key", "schema"), PROPERTIES)
def test_no_default_is_an_object_or_a_list(name: str, key: str, schema: Json):
    """Generators of clients leave out what uses such a schema."""
    assert not isinstance(schema.get("default"), dict | list), f"{name}.{key}"


@pytest.mark.parametrize(
    "wrong", ["a\0b", 2**63, -(2**63), {"a\0b": 1}, [2**63], {"a": {"b": ["\0"]}}], ids=lambda wrong: repr(wrong)[:20]
)
def test_what_cannot_be_stored_has_not_the_form_of_a_request(wrong: Any):
    components = {"components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator({"$ref": "#/components/schemas/StudyCreate", **components})
    assert validator.is_valid({"name": "a", "user_attrs": {"x": [1, -1.5, "b", None, {"c": 2**63 - 1}]}})
    assert not validator.is_valid({"name": "a", "user_attrs": {"x": wrong}})
    patch = jsonschema_rs.Draft202012Validator({"$ref": "#/components/schemas/TrialPatch", **components})
    assert not patch.is_valid({"user_attrs": {"x": wrong}})
    if isinstance(wrong, str):
        assert not validator.is_valid({"name": wrong})
        assert not validator.is_valid({"name": "a", "user_attrs": {wrong: 1}})


def test_a_word_beside_other_values_is_no_constant():
    """Regression: openapi-python-client takes a constant for the only value, so it read no damping that is a number."""
    listed = [part["anyOf"] for part in _objects(DOCUMENT) if "anyOf" in part]
    unions = [[one for one in union if one.get("type") != "null"] for union in listed]
    assert ["auto"] in [one.get("enum") for union in unions for one in union]
    assert [union for union in unions if len(union) > 1 and any("const" in one for one in union)] == []


def test_the_word_that_chooses_an_alternative_is_required():
    chosen = 0
    for part in _objects(DOCUMENT):
        if "discriminator" in part:
            key = part["discriminator"]["propertyName"]
            for reference in part["discriminator"]["mapping"].values():
                schema = SCHEMAS[reference.rpartition("/")[2]]
                chosen += 1
                assert key in schema["required"], (schema["title"], key)
                assert "default" not in schema["properties"][key]
    assert chosen > 30


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_parameter_has_a_description_and_an_example(path: str, method: str, operation: Json):
    for parameter in operation["parameters"]:
        missing = is_documented(parameter["schema"], parameter.get("description"))
        where = f"Query, Header or Path of {parameter['name']!r} in {operation['operationId']}"
        where += ", or PARAMETERS in http/openapi/document.py" if parameter["in"] == "path" else ""
        assert not missing, f"add {missing} to {where}"
    named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
    assert named == set(re.findall(r"{(\w+)}", path))


def test_every_described_parameter_of_paths_exists():
    assert PARAMETERS.keys() <= {name for path in DOCUMENT["paths"] for name in re.findall(r"{(\w+)}", path)}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_says_what_it_does_and_who_may_call_it(path: str, method: str, operation: Json):
    assert operation["summary"]
    words, _, needed = operation["description"].rpartition("\n\n")
    assert words, f"add a docstring to the route {operation['operationId']}"
    assert operation["tags"], f"add tags= to the router of {operation['operationId']}"
    assert set(operation["tags"]) <= TAGS.keys(), "add the tag to TAGS in http/openapi/document.py"
    if operation["security"]:
        (scope,) = {scope for scheme in operation["security"] for (scope,) in scheme.values()}
        assert {name for scheme in operation["security"] for name in scheme} == {"bearer", "session"}
        assert f"`{Scope(scope).value}`" in needed
        assert {"401", "503"} <= operation["responses"].keys()
    else:
        assert needed == "Needs no token."


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_answer_is_described_with_its_content(path: str, method: str, operation: Json):
    assert {"422", "default"} <= operation["responses"].keys()
    for status, answer in operation["responses"].items():
        assert answer["description"]
        is_empty = status in ("204", "304", "416") or method == "head"
        content = answer.get("content", {})
        assert bool(content) != is_empty, (status, f"add `responses=` to {operation['operationId']}")
        for kind, media in content.items():
            assert media["schema"], (status, kind)
        if status.startswith(("4", "5", "d")) and content and (path, status) != ("/readyz", "503"):
            assert content == {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}, status


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_bodies_and_answers_that_are_bytes_are_binary(path: str, method: str, operation: Json):
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        for kind, media in part.get("content", {}).items():
            if not kind.endswith("json") and not kind.startswith("text/"):
                schema = media["schema"]
                assert (schema["type"], schema["format"]) == ("string", "binary"), (kind, operation["operationId"])


def test_every_route_is_described_once_under_a_name_that_reads_well():
    served = {
        (route.path_format, method.lower())
        for route in iter_route_contexts(create_app(Settings()).routes)
        for method in route.methods or ()
        if route.path_format != "/openapi.json"
    }
    assert {(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations} == served
    names = [name for name, _ in BY_NAME]
    assert len(set(names)) == len(names), "rename the functions of the routes"
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []


def test_no_two_paths_are_the_same_but_for_the_names_of_their_parameters():
    shapes = [re.sub(r"{\w+}", "{}", path) for path in DOCUMENT["paths"]]
    assert sorted(shapes) == sorted(set(shapes))


def test_what_is_created_can_be_followed_to_what_reads_and_changes_it():
    for created in ("create_study", "create_trial", "create_token", "create_dataset"):
        assert dict(BY_NAME)[created]["responses"]["201"]["links"]


def test_the_addresses_are_relative_to_where_the_description_lies():
    assert [server["url"] for server in DOCUMENT["servers"]] == ["."]


def test_every_reference_leads_to_something():
    for part in _objects(DOCUMENT):
        if isinstance(reference := part.get("$ref"), str):
            found: Any = DOCUMENT
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]


def _objects(part: Any) -> Iterator[Json]:
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from _objects(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _objects(inner)
