"""What a request must be before its route runs, and the sentences for what it is not."""
