"""Who may use the server: users, their tokens, and the sessions of their browsers."""
