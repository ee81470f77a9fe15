"""The files of the dashboard and of /docs: everything that is no route of the API."""

from __future__ import annotations

import os

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nestor.schemas import API
from nestor_server.http.middleware import POLICY

API_ROOT = API.split("/")[1]  # of all versions
CSP = "Content-Security-Policy"
# The style sheet of Swagger UI has icons as data: URLs. Its scripts know nothing of trusted types.
DOCS_POLICY = f"{POLICY}; img-src 'self' data:"


class Pages(StaticFiles):
    """Answers what no route matched. A path of the API, or one without a file, is a 404 for every method."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at `path`, or an error that becomes a problem document."""
        if path.split(os.sep)[0] == API_ROOT:
            raise HTTPException(404)
        read = await super().get_response(path, {**scope, "method": "GET"})
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if isinstance(read, RedirectResponse):  # to the folder's page; relative, because a proxy may add a prefix
            return RedirectResponse(f"{path.rpartition(os.sep)[2]}/")
        if path.split(os.sep)[0] == "docs":
            read.headers[CSP] = DOCS_POLICY
        return read
