"""How a node is asked: transports, requests, what its errors mean, blocks and logs as values."""
