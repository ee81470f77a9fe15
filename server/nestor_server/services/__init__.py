"""What can be done, one function each: session first, never a commit, the database decides."""
