"""Describes entry points as runners find them: `python -m nestor_worker.runner.entry_points NAME …`.

A worker runs it once when it starts, in the environment of a runner, because the packages are imported to read the
signatures of their factories: neither torch nor their code is loaded by the process that knows the database.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import Any

from nestor.errors import NestorError
from nestor.schemas import EntryPointInfo, ParameterInfo
from nestor_engine.problem import entry_points
from nestor_worker.containment import process


def main(names: list[str]) -> None:
    """Write one line of JSON for each of the entry points, an `EntryPointInfo`."""
    process.prepare(name="nestor-list")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print must not be read as a line of ours
    for name in names:
        print(describe(name).model_dump_json(), file=out, flush=True)
    os._exit(0)  # not sys.exit, which waits for threads of the packages


def describe(name: str) -> EntryPointInfo:
    """What users may know of the entry point `name`; if it cannot be called, the reason."""
    try:
        factory = entry_points.find(name, where="on this worker")
    except NestorError as error:
        package = error.context.get("package", "an unknown package")
        return EntryPointInfo(entry_point=name, package=package, error=str(error))
    return EntryPointInfo(
        entry_point=name,
        package=factory.package,
        description=(inspect.getdoc(factory.function) or "").partition("\n")[0],
        parameters=tuple(_described(parameter) for parameter in factory.parameters.values()),
        takes_others=factory.takes_others,
    )


def _described(parameter: inspect.Parameter) -> ParameterInfo:
    annotation = parameter.annotation
    written = None if annotation is parameter.empty else inspect.formatannotation(annotation).strip("'\"")
    if parameter.name == entry_points.SEED:
        return ParameterInfo(name=parameter.name, annotation=written, required=False)  # by default the trial's
    if parameter.default is parameter.empty:
        return ParameterInfo(name=parameter.name, annotation=written, required=True)
    return ParameterInfo(name=parameter.name, annotation=written, required=False, default=_json(parameter.default))


def _json(value: Any) -> Any:
    """`value`, or the text that Python writes for it if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)[:200]


if __name__ == "__main__":
    main(sys.argv[1:])
