"""What schemathesis must not take for a fault, and what it must not do. Each exception says why it is one."""

from __future__ import annotations

import json
import os
import re
from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

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


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Do not revoke the token of these requests, since all that follow would be 401, and do not wait for events."""
    if (case.path_parameters or {}).get("token_id") == os.environ["NESTOR_OWN_TOKEN"]:
        case.path_parameters["token_id"] = str(uuid4())
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and 0 < wait <= 25:
        case.query["wait"] = 0


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
