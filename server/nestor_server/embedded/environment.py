"""The environment variables that Nestor's processes see: a list of what they need, whatever else the shell has set.

Libraries read variables that users set for other programs. libpq follows PG*, Celery follows CELERY_* and loads Django
for DJANGO_SETTINGS_MODULE, uvicorn follows WEB_CONCURRENCY, and Python follows PYTHONWARNINGS and PYTHONPATH. Each of
them can redirect a connection or stop a start. A list of the harmful ones would never be complete.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

NAMES = frozenset(
    """
    PATH HOME USER LOGNAME SHELL TERM TZ LANG LANGUAGE TMPDIR VIRTUAL_ENV CONDA_PREFIX
    LD_LIBRARY_PATH DYLD_LIBRARY_PATH PYTHONHOME PYTHONUSERBASE PYTHONNOUSERSITE PYTHONUNBUFFERED
    SSL_CERT_FILE SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
    """.split()
)
# Nestor's own settings, locales, GPUs, the credentials of object stores, where traces go, and the measurement of test
# coverage.
PREFIXES = (
    *("NESTOR_", "LC_", "XDG_", "CUDA_", "NVIDIA_", "AWS_", "GOOGLE_", "AZURE_", "MSI_", "IDENTITY_", "OTEL_"),
    "COVERAGE_",
)


def restricted(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that Nestor's own processes need. PYTHONPATH can add modules, but replace none."""
    kept = {name: value for name, value in environment.items() if name.upper() in NAMES or name.startswith(PREFIXES)}
    if given := _python_path(environment):
        own = sys.path if sys.flags.safe_path else sys.path[1:]  # without -P, the first is the directory of the script
        kept["PYTHONPATH"] = os.pathsep.join(_moved_last(own, given))
    return kept


def restrict() -> None:
    """Remove all other variables from this process. Commands call it before they import what reads them."""
    kept, given = restricted(os.environ), _python_path(os.environ)
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    os.environ.update(kept)
    if given:
        sys.path[:] = _moved_last(sys.path, given)


def for_databases() -> dict[str, str]:
    """The environment of PostgreSQL and Valkey: nothing that they read, and a locale that every system has."""
    loader = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in loader if name in os.environ} | {"LC_ALL": "C"}


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _moved_last(path: list[str], given: list[str]) -> list[str]:
    return [*(entry for entry in path if entry and entry not in given), *given]
