"""Blocks of events: from the socket, and from a node's logs as the socket would have sent them."""
