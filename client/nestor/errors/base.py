"""The root of all errors, and how a sentence quotes what a user gave."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, cast

PROBLEM_JSON = "application/problem+json"
SHOWN = 80  # characters of a quoted value
ITEMS = 32  # of a quoted list or dictionary
# Names of context values that are Nestor's own sentences or paths of this machine, and so may be longer.
_LONG = {
    **dict.fromkeys(("reason", "remedy", "summary", "message", "expected", "rule", "hint", "advice"), 1_000),
    **dict.fromkeys(("field", "option", "where", "uri"), 200),
    **dict.fromkeys(("file", "home", "log", "looked"), 4_096),
    **dict.fromkeys(("findings", "tail"), 20_000),
}


class NestorError(Exception):
    """Something went wrong inside Nestor itself.

    Attributes:
        status: the HTTP status; 0 for what never crosses the wire.
        message: a template over the context: what is wrong.
        remedy: a template over the context: what to do about it.
        retryable: whether the same request may succeed later.
        context: the values in the sentence, for programs. Long ones are shortened.
    """

    status: ClassVar[int] = 500
    message: ClassVar[str] = "Nestor failed: {reason}."
    remedy: ClassVar[str] = "The server's log has the details under this request's id."
    retryable: ClassVar[bool] = False
    known: ClassVar[dict[str, type[NestorError]]] = {}
    context: dict[str, Any]

    def __init_subclass__(cls) -> None:
        if "message" in vars(cls) and "remedy" not in vars(cls):
            cls.remedy = ""  # a class's remedy belongs to its own sentence
        NestorError.known[cls.code()] = cls

    def __init__(self, **context: Any) -> None:
        self.context = _shortened(context)
        words = {name: _in_words(value) for name, value in self.context.items()}
        super().__init__(f"{self.message} {self.remedy}".strip().format(**words))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the sentence and the context: exceptions of worker processes travel this way."""
        return _restored, (type(self), self.args, vars(self))

    @classmethod
    def code(cls) -> str:
        """The class's name as the wire writes it: StudyExists → study-exists."""
        return "-".join(_words_of(cls)).lower()

    @classmethod
    def title(cls) -> str:
        """The class's name in words: StudyExists → Study Exists."""
        return " ".join(_words_of(cls))

    def problem(self, request_id: str | None = None) -> dict[str, Any]:
        """This error as an RFC 9457 problem document, which JSON can hold."""
        return {
            "type": f"https://nestor.invalid/errors/{self.code()}",
            "title": self.title(),
            "status": self.status,
            "detail": str(self),
            "code": self.code(),
            "retryable": self.retryable,
            "request_id": request_id,
            "context": _plain(self.context),
            "errors": _plain(self.context.get("errors", [])),
        }

    @staticmethod
    def from_problem(problem: dict[str, Any]) -> NestorError:
        """The error that `problem` describes, as the class that was raised on the other side.

        A code that this version does not know still gives its sentence, as a plain `NestorError`.
        """
        cls = NestorError.known.get(problem.get("code", ""), NestorError)
        error = cls.__new__(cls)
        error.context = _shortened(problem.get("context") or {})
        Exception.__init__(error, problem.get("detail") or problem.get("title") or "unknown error")
        return error


def _restored(cls: type[NestorError], args: tuple[Any, ...], state: dict[str, Any]) -> NestorError:
    error = cls.__new__(cls, *args)
    vars(error).update(state)
    return error


def shown(value: object, limit: int = SHOWN) -> str:
    """`value` as Python writes it, on one line and shortened: how a sentence quotes what a user gave."""
    if isinstance(value, str):
        value = value[: limit + 1]  # the rest would be cut off, and may be long
    elif isinstance(value, list | dict):
        value = cast("list[object] | dict[object, object]", value)
        if len(value) > ITEMS:
            return f"a {type(value).__name__} of {len(value):,} entries"
    try:
        text = repr(value)
    except Exception:  # of a user's own class
        text = f"<{type(value).__name__}>"
    return shortened(text if text.isprintable() else " ".join(text.split()), limit)


def shortened(text: str, limit: int = SHOWN) -> str:
    """`text` in at most `limit` characters, all of which can be encoded."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()


def brief(value: Any, limit: int = SHOWN) -> Any:
    """`value` with its texts and lists shortened; what is neither plain data nor text becomes text."""
    match value:
        case str():
            return shortened(value, limit)
        case bool() | int() | float() | None:
            return value if not isinstance(value, int) or abs(value) < 2**63 else shown(value)
        case dict():
            items = list(cast(dict[Any, Any], value).items())[:ITEMS]
            return {shortened(str(key)): brief(inner, _LONG.get(key, limit)) for key, inner in items}
        case list() | tuple():
            some = [brief(inner, limit) for inner in cast(list[Any], value)[:ITEMS]]
            return tuple(some) if isinstance(value, tuple) else some
        case _:
            return shortened(str(value), limit)


def _shortened(context: dict[str, Any]) -> dict[str, Any]:
    return {name: brief(value, _LONG.get(name, SHOWN)) for name, value in context.items()}


def _in_words(value: Any) -> Any:
    """Lists and dictionaries as a sentence enumerates them; a tuple stays one, since shapes are written so."""
    if isinstance(value, list):
        return ", ".join(map(repr, cast(list[Any], value))) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in cast(dict[Any, Any], value).items()) or "none"
    return value


def _plain(value: Any) -> Any:
    """`value` without what JSON cannot write."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast(list[Any], value)]
    return value


def _words_of(cls: type) -> list[str]:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).split()
