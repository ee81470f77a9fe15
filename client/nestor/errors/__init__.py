"""Every error that Nestor raises: one class with one code, one sentence and its remedy.

An error is raised on the server or by the engine, travels as RFC 9457 problem+json under its class's
name, and is raised again as the same class in the client; the HTTP status belongs to the class.
`docs/errors.md` lists them all; `python -m nestor.errors` writes it.

    NestorError
    ├── InvalidInput (422)      what was given cannot be used
    │   ├── ValidationFailed    fields of a request, one by one
    │   ├── ConfigInvalid       an option: OptionOutOfRange, ChoiceUnknown, HparamsUnused, …
    │   ├── ProblemInvalid      the problem: ModelInvalid, LossInvalid, HparamsInvalid, DatasetInvalid, NotExportable
    │   ├── ProgramInvalid, StateInvalid
    ├── Unauthenticated (401), Forbidden (403)
    ├── NotFound (404)          StudyNotFound, TrialNotFound, BlobNotFound, …
    ├── Conflict (409)          StudyExists, IllegalTransition, …
    ├── TooLarge (413)
    ├── Unavailable (503)
    ├── TrialError              what a trial ended with: Diverged, OutOfMemory, …
    └── ClientError             never on the wire: ServerUnreachable, NoToken, TrialFailed, MissingExtra
"""

from __future__ import annotations

from nestor.errors.arguments import *
from nestor.errors.base import PROBLEM_JSON as PROBLEM_JSON
from nestor.errors.base import NestorError as NestorError
from nestor.errors.base import shortened as shortened
from nestor.errors.base import shown as shown
from nestor.errors.client import *
from nestor.errors.commands import *
from nestor.errors.data import *
from nestor.errors.entry_points import *
from nestor.errors.findings import *
from nestor.errors.options import *
from nestor.errors.problems import *
from nestor.errors.programs import *
from nestor.errors.references import *
from nestor.errors.requests import *
from nestor.errors.resources import *
from nestor.errors.trials import *
