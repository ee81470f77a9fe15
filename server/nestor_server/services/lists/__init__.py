"""What all lists share: pages, the order of their items, and searches."""
