"""The pure part: bytes, numbers, listings and clock readings in; values and plans out.

Nothing here opens a file, waits, reads a clock, logs or draws a random number.
"""
