"""Making the weights: pairs of videos with tracks over both, the training loop, and the small model that ships.

`pairs` says what an example is, and `dataset` how examples lie on disk, in `shards` (`shards_pairs`, `shards_writer`).
`generator` and `synthesis` make them from nothing, `curation` takes them from real video, `fit` from one's own shot;
`moved` adds the reprojection, `latents` keeps what the VAE made.

`config` says what one training is; ready ones are in `configs`. `examples` opens the sources that it names, `framed`
brings each example to one size and length, `batches` is what a model sees of them, `symmetries` makes many of few,
`augment` is what they lose on purpose, and `sources` mixes and prepares them ahead. `loop` trains whatever is a
`trainees.Trainee`, in the `processes` there are, with `checkpoints` and what it shows (`look`). `registry` names the
trainees: `wan_trainees`, with `flow`, and `draft_trainees`, with `draft_loss`. `commands` are `retake train` and
`retake fit`, `slurm` writes the script for many nodes.
"""
