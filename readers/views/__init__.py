"""An arena shown to people: what a reader can see, collected in one place, and a live view in a terminal.

The collection, the picture and the command need what readers need. Textual, the extra `top`, is imported by
the live view alone.
"""
