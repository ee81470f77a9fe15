"""Event streams: notifications wake feeds, and feeds give each new event to all streams of a trial."""
