"""The one process that changes the arena.

Its feed thread reads the event socket and is the only one to touch shared memory; everything that
waits (scraping, signals, progress) runs in the main thread and hands the feed thread short pieces
of work that run between two blocks. Nothing here is imported by readers.
"""
