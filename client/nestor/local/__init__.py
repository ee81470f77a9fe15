"""The backend without a server: trials that run in this process."""
