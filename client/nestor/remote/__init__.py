"""The backend for a remote server: HTTP, uploads, event streams and credentials."""
