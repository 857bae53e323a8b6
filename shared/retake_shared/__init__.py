"""Plain data and numpy mathematics that Blender and the backend share.

Nothing here imports bpy, torch, cv2 or opens a window; everything runs in Blender's own Python as well as in the
backend's environment. `geometry` holds the one convention of the project (camera-to-world poses, OpenCV axes, pixel
centres at .5), `shot` the data (footage, cameras, tracks, solve, edit, take), `camera_moves` and `edit_script` turn
an artist's words into an edit, `formats` reads what other people's solvers write, `archive` reads and writes our own
single file, `protocol` and `wire` carry all of it between processes.
"""

__version__ = "0.1.0"
