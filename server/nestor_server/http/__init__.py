"""Authentication, validation, errors, idempotency and files: what the routes share."""
