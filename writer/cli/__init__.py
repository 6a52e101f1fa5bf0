"""The command lines of the writer's programs."""
