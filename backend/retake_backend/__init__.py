"""The backend of Retake: its own environment and its own processes, never inside Blender.

`cli` is the door. `broker` owns the sockets and the job store and outlives Blender; `worker` runs one job at a time
and may be killed; `engines` turn footage, solve and edit into frames; `footage` decodes and encodes video frame by
frame. Engines know nothing of sockets, the broker nothing of pictures.
"""

__version__ = "0.1.0"
