"""Measures of what engines render, and `retake evaluate`, which takes them.

One definition of each measure: pictures in `picture`, `lpips` and `fvd`; words and likeness in `clip`; cameras in `solve`
(solves against the truth) and `cameras` (takes against what was asked for, found by `poses`); tracks in `control`.
`measuring` takes all of them of one clip; `sets` are what is rendered, `running` renders and measures, beside
`yardsticks` that any engine should beat; `table` and `report` tell it, `commands` is the command. Networks and their
weights: `networks`.
"""
