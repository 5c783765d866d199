"""Files that outlive a power cut: atomic replacement and the append log.

Here belongs what spool, state, local store and restore share about writing a file safely. It knows paths and bytes;
it must not know what the bytes mean, nor databases, stores or the event loop.
"""
