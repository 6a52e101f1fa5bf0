"""Servers in the place of a feed, a NATS server or a node, and faults in front of one."""
