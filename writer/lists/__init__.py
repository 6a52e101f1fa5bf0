"""Where the list of pools comes from: a file, NATS, what was saved."""
