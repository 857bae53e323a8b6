"""What turns an edit into tokens for a video model.

`coordinates` makes paired screen coordinates of a solve and an edit; each conditioner turns them, with the source
video's tokens, into what is added to the model's: `edit_by_track` and `track2view` once per video to the tokens
before the first block, `trajectory_attention` beside the attention of the blocks, along what `trajectories` makes of
cameras, depth and points (the paper's algorithms) and `trajectory_uses` of a shot and its edit. Every one ends in a projection that
starts at zero, so that the base model's output is its own until training moves it.
"""
