"""`python -m nestor_server`: run the API server, configured by the environment."""

from __future__ import annotations

import sys

from nestor.errors import NestorError
from nestor_server.serve import serve

if __name__ == "__main__":
    try:
        serve()
    except NestorError as error:
        sys.exit(str(error))
