"""Look a collection over before training: damaged files, copies, leaks between splits, classes.

Rooms: `container` follows a file's structure and `decode` decodes it; `task` is what processes do
of that, `cache` remembers it; `clips` reads the collection, `findings` compares its clips; `page`
shows the result and `collection` joins all. Nothing is imported here: the processes need `task`
alone.
"""
