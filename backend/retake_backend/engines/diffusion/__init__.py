"""What every diffusion engine shares: `framing` brings footage to the model's size and back, `windows` cuts long shots
into pieces the model can make, `sampling` is the denoising loop, and `engine` joins them into the flow of one take.
"""
