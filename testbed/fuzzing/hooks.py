"""What schemathesis must not take for a fault, and what it must not do. Each exception says why it is one."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import jsonschema_rs
import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

# A request whose fields have the form of their schemas may be refused for what they say together, by the present state
# of things, or by a limit that the operator set. But it may not be refused with one of these codes.
OF_FORM = {
    "option-unknown",
    "option-missing",
    "option-type-wrong",
    "option-out-of-range",
    "choice-unknown",
    "body-unreadable",
    "value-not-storable",
    "schema-invalid",
}


@schemathesis.check
def valid_form_is_accepted(ctx: Any, response: Any, case: Any) -> None:
    """As `positive_data_acceptance`, except for what no schema can say."""
    if response.status_code == 416:  # the size of a file is part of the present state
        return
    if response.status_code in (412, 413, 422) and response.content and not _codes(response) & OF_FORM:
        return
    positive_data_acceptance(ctx, response, case)


@schemathesis.check
def invalid_form_is_refused(ctx: Any, response: Any, case: Any) -> None:
    """As `negative_data_rejection`, except for what is invalid as JSON and valid as the text that was sent.

    The number 7 is no string, but a URL that ends in `?tag=7` names a tag. Any request may have more headers.
    """
    changed = {place for place in ParameterLocation if case.meta is not None and case.meta.is_negative_at(place)}
    if not changed <= {ParameterLocation.QUERY, ParameterLocation.HEADER} or not _is_valid_as_sent(response, case):
        negative_data_rejection(ctx, response, case)


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Do not revoke the token of these requests, since all that follow would be 401, and do not wait for events."""
    if (case.path_parameters or {}).get("token_id") == os.environ["NESTOR_OWN_TOKEN"]:
        case.path_parameters["token_id"] = str(uuid4())
    if re.fullmatch(r"[1-9]\d*(\.\d*)?", str((case.query or {}).get("wait"))):
        case.query["wait"] = 0


def _is_valid_as_sent(response: Any, case: Any) -> bool:
    """Whether the parameters are all declared, and their texts can be read as what the document declares."""
    sent = {"query": parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)}
    sent["header"] = {name.lower(): [value] for name, value in response.request.headers.items()}
    document = case.operation.schema.raw_schema
    declared = [parameter for parameter in case.operation.definition.raw["parameters"] if parameter["in"] in sent]
    known = {parameter["name"] for parameter in declared if parameter["in"] == "query"}
    for parameter in declared:
        name = parameter["name"] if parameter["in"] == "query" else parameter["name"].lower()
        texts = sent[parameter["in"]].get(name)
        if texts is None:
            if parameter.get("required"):
                return False
            continue
        validator = jsonschema_rs.Draft202012Validator({**parameter["schema"], "components": document["components"]})
        if not any(map(validator.is_valid, _readings(texts))):
            return False
    return sent["query"].keys() <= known


def _readings(texts: list[str]) -> list[object]:
    """What the values of one parameter may stand for."""
    found: list[object] = [texts]
    if len(texts) == 1:
        found.append(texts[0])
        with contextlib.suppress(ValueError):
            found.append(json.loads(texts[0]))
    return found


def _codes(response: Any) -> set[str]:
    """The codes of what is wrong with a request."""
    problem = json.loads(response.content)
    floats = {entry["field"] for entry in problem["errors"] if _is_a_whole_float(entry)}  # one entry per alternative
    return {entry["code"] for entry in problem["errors"] if entry["field"] not in floats} or {problem["code"]}


def _is_a_whole_float(entry: dict[str, str]) -> bool:
    """JSON Schema takes 5.0 for an integer. Nestor refuses it, because a float in such a place is mostly a mix-up."""
    return (
        "a whole number" in entry["message"] and re.search(r"was -?(\d+\.0|\d.*e\+\d+)\.$", entry["remedy"]) is not None
    )
