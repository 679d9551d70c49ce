"""Named tasks over workers: processes of this machine, or of a Ray cluster.

A job is one function for many named tasks, which know nothing of each other. `place.opened` gives the workers of a
place that a user wrote as ``local:N``, ``ray`` or ``ray://HOST:PORT``, and `pool.mapped` hands tasks to them. What a
worker is stands in `crew.py`; each kind has a file: `local.py` and `cluster.py`. Nothing here knows of models.

What workers say on the way is heard by whoever opened the place. A worker that dies is replaced and its task done
again. A task that fails, or whose worker dies, twice is set aside.

Processes that work on one thing together are a gang (`gang.py`); a user writes them as ``torchrun:N``.
"""
