"""From a connected stream to a live arena, and everything that keeps it right."""
