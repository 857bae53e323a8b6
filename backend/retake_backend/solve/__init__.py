"""From any video to a solve: points, cameras, objects, depth, world tracks. On a CPU, offline.

Each stage is one module and one function from plain data to plain data (`stages.py`); `pipeline.py` runs them in
order, keeps every stage's result and a picture of it, and `report.py` says in words how far the solve can be trusted.
All coordinates between stages are px of the working picture (longer side at most 672 px), pixel centres at .5.
"""
