"""The process that runs one trial, without credentials."""
