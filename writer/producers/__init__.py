"""Programs that make a stream: from a node's logs, or from what was recorded."""
