"""How much of the server each user may take."""
