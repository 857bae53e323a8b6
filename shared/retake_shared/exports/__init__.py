"""Writes cameras and tracks, of a solve or of an edit, as other programs read them.

One module per format, each with a `write(path, content, ...) -> notes`; the convention of the file stands in its
docstring and is made there and nowhere else. `content` is what all of them write: built from a `Solve` or an `Edit`.
Frames keep the footage's numbers: row t of a content is footage frame `content.first + t`, its picture `frame_name` of
that. Nothing but numpy is needed; pictures are given by the caller where a format holds them.
"""

from .content import Content, of_edit, of_solve, static_tracks, y_up
from .writing import KINDS, Kind, Options, write

__all__ = ["KINDS", "Content", "Kind", "Options", "of_edit", "of_solve", "static_tracks", "write", "y_up"]
