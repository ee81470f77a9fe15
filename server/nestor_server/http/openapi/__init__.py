"""The description of the REST API at /openapi.json: what FastAPI infers from routes and schemas, and what it cannot."""
