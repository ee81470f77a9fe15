"""Writes the reference page of all errors; its first lines say how."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

from nestor.errors import NestorError

_HEAD = """\
<!-- Written by `python -m nestor.errors nestor_server.embedded.errors > docs/errors.md` from the classes. -->

# Errors

Every error is a subclass of `nestor.errors.NestorError`. It has a `code()`, an HTTP `status`, a `context` with the
values in its sentence, and `retryable`, which says whether the same request may succeed later. A server sends an error
as RFC 9457 `application/problem+json`, with the code in the member `code`; the Python client raises it as the same
class. Codes stay what they are from version to version. Values that a user gave are shortened.

An error about several fields lists them in `errors`: each entry has the `field`, its `message`, and the `code` of the
class that Python raises for this mistake alone.

```python
try:
    nestor.load_study("mine", server="http://localhost:8000")
except nestor.errors.StudyNotFound as error:
    print(error.context["study"])
```

Except a class to handle every kind of it: `NotFound` also catches `StudyNotFound`.
"""

_ORDER = (
    "base",
    "requests",
    "resources",
    "arguments",
    "options",
    "problems",
    "data",
    "references",
    "programs",
    "entry_points",
    "findings",
    "trials",
    "client",
    "commands",
)


def page() -> str:
    """The page as Markdown: one section for each module, one entry for each class."""
    sections: dict[str, list[type[NestorError]]] = {f"nestor.errors.{name}": [] for name in _ORDER}
    for cls in (NestorError, *_classes(NestorError)):
        sections.setdefault(cls.__module__, []).append(cls)
    parts = [_HEAD]
    for module, classes in sections.items():
        title = (sys.modules[module].__doc__ or module).split("\n")[0].rstrip(".")
        parts += [f"## {title}\n", *map(_entry, classes)]
    return "\n".join(parts)


def _classes(cls: type[NestorError]) -> Iterator[type[NestorError]]:
    for one in cls.__subclasses__():
        yield one
        yield from _classes(one)


def _entry(cls: type[NestorError]) -> str:
    parent = cls.__mro__[1]
    facts = [
        f"`{cls.__name__}`",
        *([f"a kind of `{parent.__name__}`"] if parent not in (NestorError, Exception) else []),
    ]
    facts += [f"status {cls.status}" if cls.status else "never on the wire", *(["retryable"] if cls.retryable else [])]
    when, *_ = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    lines = [f"### {cls.code()}\n", f"{', '.join(facts)}. {when}\n"]
    if "message" in vars(cls) or "remedy" in vars(cls):
        lines.append(f"> {' '.join(f'{cls.message} {cls.remedy}'.split())}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    for declaring in sys.argv[1:]:  # modules of other packages that declare errors
        importlib.import_module(declaring)
    print(page(), end="")
