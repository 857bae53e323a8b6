"""What every diffusion engine shares: `framing` brings footage to the model's size and back, `windows` cuts long shots
into pieces the model can make, `sampling` is the denoising loop, and `engine` joins them into the flow of one take, which
`watched` runs in a thread. `tracks` is what the two track engines have in common; `reprojection` is the preview as a
start or a control, `repainting` joins a model's painting to it.
"""
