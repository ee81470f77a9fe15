"""One function per operation. Each takes the session first and never commits."""
