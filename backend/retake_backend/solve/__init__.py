"""From any video to a solve: points, cameras, objects, depth, world tracks. On a CPU, offline.

Each stage is one module and one function from plain data to plain data (`stages.py`); `pipeline.py` runs them in
order, keeps every stage's result (`kept.py`) and a picture of it (`look.py`), and `report.py` says in words how far the
solve can be trusted. All coordinates between stages are px of the working picture (longer side at most 672 px), pixel
centres at .5.

Before any point: `footing.py` (scene cuts, pictures that nothing can be followed in), `masks.py` and `clicking.py`
(masks of the user).

Points: `points.py` follows them with `patches.py`, on a `proxy.py` of large footage; `trackers.py` chooses the tracker,
`plugins.py` runs those of others; `asked.py` follows points that somebody asks for.

Cameras: `cameras.py` tells the kinds of shot apart by `motion.py`. `tripod.py` solves cameras that stay in one place,
`moving.py` those that move, from the mappers of `colmap_process.py` or a guess of `zooming.py`; `assembly.py` goes on
to all frames and points, with the one still world that `consensus.py` finds. They share `camera_job.py` (what all begin from) and `refitting.py`
(fitted once more). Beneath lie `bundle.py` (cameras, points and sightings as data), `triangulation.py` (points from
cameras), and `adjustment.py` (both at once) with its `unknowns.py`.

Objects: `objects.py` finds what moves on its own, by the groups of `grouping.py`.

Depth and world: `depth.py` makes depth dense and `lift.py` brings all points into the world, from the still scene
(`still.py`), its ground (`ground.py`), a network (`monocular.py`), values between points (`interpolation.py`) and over
time (`series.py`).

`commands.py` is `retake solve` on the command line.
"""
