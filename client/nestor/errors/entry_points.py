"""Problems of installed packages, which a worker builds by calling their factories."""

from __future__ import annotations

from nestor.errors.problems import ProblemInvalid


class EntryPointInvalid(ProblemInvalid):
    """The problem of an installed package cannot be built."""


class EntryPointNotFound(EntryPointInvalid):
    """No installed package registers the entry point."""

    message = "The entry point {entry_point!r} is not installed {where}. Installed there: {known}."
    remedy = (
        "Install there, with pip, a package that registers it in the entry-point group 'nestor.problems'. "
        "A worker must be restarted to find it."
    )


class EntryPointNotOffered(EntryPointInvalid):
    """Running workers have the entry point installed, but none of them can call it."""

    message = "No running worker can run the entry point {entry_point!r}: {reason}"


class EntryPointNotImportable(EntryPointInvalid):
    """A package registers the entry point, but the factory cannot be imported."""

    message = "The entry point {entry_point!r} of {package} cannot be imported: {reason}."
    remedy = "Install what it needs in the same environment. A worker must be restarted to find it."


class EntryPointNotCallable(EntryPointInvalid):
    """What a package registers is not a function that can be called with arguments by name."""

    message = "The entry point {entry_point!r} of {package} cannot be called: {reason}."
    remedy = "Register a function that takes its arguments by name and returns a nestor.Problem."


class EntryPointParamUnknown(EntryPointInvalid):
    """The factory has no parameter of that name."""

    message = "The entry point {entry_point!r} has no parameter {param!r}. Its parameters: {params}."
    remedy = "Rename it, or leave it out of `params`."


class EntryPointParamMissing(EntryPointInvalid):
    """The factory has a parameter without a default, for which no value was given."""

    message = "The entry point {entry_point!r} needs a value for the parameter {param!r}. Its parameters: {params}."
    remedy = "Add it to `params`."


class EntryPointParamNotJson(EntryPointInvalid):
    """A value for the factory cannot be sent to a worker."""

    message = "The entry point {entry_point!r} got the parameter {param!r} with a value that JSON cannot hold: {given}."
    remedy = "Pass finite numbers, texts, lists and dicts of them, and let the factory make the rest."


class EntryPointFailed(EntryPointInvalid):
    """The factory raised an error."""

    message = "The factory of the entry point {entry_point!r} failed{where}: {reason}."
    remedy = "Correct the params, or the package."


class EntryPointResultInvalid(EntryPointInvalid):
    """The factory returned something that is not a problem."""

    message = "The factory of the entry point {entry_point!r} returned {given}."
    remedy = "Return a nestor.Problem, or a tuple (Bilevel, Data) of nestor_engine."
