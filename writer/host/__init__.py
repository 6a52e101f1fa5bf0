"""What the operating system and the log give: sockets, descriptors, tasks, counts."""
