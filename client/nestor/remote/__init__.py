"""The backend that is a server: HTTP, uploads, event streams and credentials."""
