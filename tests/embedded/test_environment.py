"""Nestor's processes see the variables that they need, and none of another program's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nestor_server.embedded.environment import for_databases, restricted

# One of each library and tool that a part of Nestor loads, and what would happen if it were seen.
FOREIGN = {
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",  # another broker: trials would wait forever
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:1/0",
    "CELERY_LOADER": "no.such:Loader",  # the worker would not start
    "CELERY_CUSTOM_WORKER_POOL": "no.such:Pool",
    "FORKED_BY_MULTIPROCESSING": "1",
    "AUTOSCALE_KEEPALIVE": "long",
    "DJANGO_SETTINGS_MODULE": "site.settings",
    "PGSSLMODE": "require",  # PostgreSQL would refuse each connection
    "PGOPTIONS": "-c search_path=nowhere",
    "PGSERVICE": "production",
    "PGPASSFILE": "/nonexistent/pgpass",
    "PGHOST": "db.example.org",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGTZ": "Mars/Olympus",
    "PGSYSCONFDIR": "/nonexistent",
    "PGCHANNELBINDING": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PSYCOPG_IMPL": "none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "WEB_CONCURRENCY": "many",  # uvicorn
    "FORWARDED_ALLOW_IPS": "*",
    "PYTHONSTARTUP": "/nonexistent.py",
    "PYTHONMALLOC": "debug",
    "PYTHONASYNCIODEBUG": "1",
    "OMP_NUM_THREADS": "many",
    "OPENSSL_CONF": "/nonexistent.cnf",
    "DATABASE_URL": "postgresql://db.example.org/app",
}
# Values that no part of Nestor may stumble over, of variables that it needs.
BROKEN = {
    "LC_ALL": "xx_YY.UTF-9",
    "LANG": "nowhere",
    "TMPDIR": "/nonexistent",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks9://127.0.0.1:9",
    "SSL_CERT_FILE": "/nonexistent.pem",
    "COLUMNS": "wide",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_variable_of_another_program_is_dropped(name: str):
    assert restricted({name: FOREIGN[name], "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name", ["NESTOR_THREADS", "LC_ALL", "CUDA_VISIBLE_DEVICES", "AWS_REGION", "AZURE_STORAGE_KEY", "https_proxy"]
)
def test_what_a_part_needs_is_kept(name: str):
    assert restricted({name: "1"}) == {name: "1"}


def test_postgres_and_valkey_see_nothing_of_the_shell(monkeypatch: pytest.MonkeyPatch):
    for name, value in (FOREIGN | BROKEN).items():
        monkeypatch.setenv(name, value)
    assert for_databases().keys() <= {"PATH", "LD_LIBRARY_PATH", "LC_ALL"}
    assert for_databases()["LC_ALL"] == "C"


def test_python_path_adds_modules_and_replaces_none(tmp_path: Path):
    for name in ("celery", "queue_of_mine"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('replaced')" if name == "celery" else "x = 1")
    restrict = "from nestor_server.embedded.environment import restrict; restrict()"
    again = "import os, subprocess, sys; sys.exit(subprocess.call([sys.executable, '-P', '-c', sys.argv[1]]))"
    load = "import celery, queue_of_mine"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", str(tmp_path)])}
    for code, argument in ((f"{restrict}; {load}", ""), (f"{restrict}; {again}", load)):
        subprocess.run([sys.executable, "-c", code, argument], env=environment, check=True, cwd=tmp_path)
