"""Making the weights: pairs of videos with tracks over both, the training loop, and the small model that ships.

`pairs` says what an example is and `dataset` how examples lie on disk; `generator` and `synthesis` make them from
nothing, `curation` takes them from real video; `moved` adds the reprojection, `latents` keeps what the VAE made.
`batches` is what a model sees of them. `config` says what one training is, `loop` trains whatever is a
`trainees.Trainee` (`registry` names them), and `fit` makes the pairs of one's own shot.
"""
