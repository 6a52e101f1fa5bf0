"""`python -m arena.writer.demo`: the same as arena-demo."""

from arena.writer.cli import demo

demo()
