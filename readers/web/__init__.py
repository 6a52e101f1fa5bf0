"""An arena as a web page and a JSON API: one reader for all who look, nothing is written.

All of it runs in one thread: a look or a quote takes far less than the time between two looks.
"""
