"""`python -m nestor_server`: run the API server, configured by the environment."""

from __future__ import annotations

import sys

from nestor.errors import NestorError
from nestor_server.embedded.environment import restrict

if __name__ == "__main__":
    restrict()
    try:
        from nestor_server.serve import serve

        serve()
    except NestorError as error:
        sys.exit(str(error))
