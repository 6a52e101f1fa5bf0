"""What the bytes in shared memory mean: numpy dtypes, constants and name tables.

No I/O, no locks, no native code. Every dtype states offsets, byte order and item size, and equals the C
struct of arena/native/layout.h field by field.
"""
