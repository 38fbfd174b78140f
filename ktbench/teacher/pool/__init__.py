"""A teacher on workers that join and leave, behind a source that a training reads.

`client` is that source, connected by `link` to the `coordinator`, which carries out what `dispatch`
decides (without clock or network) on the workers of its `workforce`; a `worker` runs the teacher.
"""
