"""The parts of the benchmark, one module each. `rows` of a part yields its rows as they are measured."""
