"""PostgreSQL and Valkey as child processes: their binaries, data, ports and passwords."""
