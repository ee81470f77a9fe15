"""Real services, and a cluster whose parts can be broken one by one: for the tests and for `benchmarks.durability`."""
