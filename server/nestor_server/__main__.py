"""`python -m nestor_server`: the API server as its settings say."""

from __future__ import annotations

from nestor_server.serve import serve

if __name__ == "__main__":
    serve()
