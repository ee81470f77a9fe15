"""Refuses JSON that Python reads but PostgreSQL or other readers do not: NaN, NUL, lone surrogates, deep nesting."""

from __future__ import annotations

from fastapi import Request

from nestor.errors import ValidationFailed, ValueNotStorable, shortened
from nestor.schemas.storable import first_fault
from nestor_server.http.checks.validation_errors import entry


async def require_storable_json(request: Request) -> None:
    """Check the query parameters and the JSON body of a request.

    Raises:
        ValidationFailed: the field that cannot be stored, and why.
    """
    for name, value in request.query_params.multi_items():
        _check(name, value)
    if request.headers.get("Content-Type", "").startswith("application/json") and await request.body():
        _check("", await request.json())


def _check(field: str, value: object) -> None:
    if fault := first_fault(field, value):
        field = shortened(fault.field.replace("\0", "\\0"), 200)
        error = entry(ValueNotStorable, field, fault.message, fault.remedy)
        raise ValidationFailed(summary=f"{field}: {fault.message}. {fault.remedy}", errors=[error])
