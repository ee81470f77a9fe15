"""Who sends a request, and how much of the server a user may take."""
