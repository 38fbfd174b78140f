"""A teacher that runs elsewhere: workers that join and leave, and a source that hides them.

`dispatch` decides who answers what, without clock or network; `worker` answers; `coordinator`
stands between workers and trainings; `client` is the source that a training loop reads.
"""
