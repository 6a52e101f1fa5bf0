"""What runs as a process, or on a thread, beside a test."""
