"""Look a collection over before training: damaged files, copies, leaks between splits, classes.

Rooms: `files` gives the bytes of files and of members of shards, `container` follows their
structure and `decode` decodes them; `task` is what processes do of that, `cache` remembers it;
`clips` reads the collection, `findings` compares its clips; `page` shows the result and
`collection` joins all. Nothing is imported here: the processes need `task` alone.
"""
