"""Pairs from nothing, by the million: rooms with boxes, balls, sheets and cut-out figures, cast ray by ray in torch.

`scenes` draws what is there and how it moves, before and after an edit; `textures` what it is painted with; `casting`
sees it (depth, surface, light and shadow); `following` carries surface points through both views, as tracks; and
`moving` reprojects the source along the edit, as `preview` would, mistakes included. `made` puts batches and pairs
together; `commands` is `retake generate`.
Everything is one computation over the batch, on any device; the same seed gives the same scenes on each.

World: metres, x right, y down, z forward; a room around the origin. Views: 0 source, 1 target.
"""
