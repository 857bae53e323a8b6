"""The video models: diffusers' own classes, with the source video beside the noisy target.

`wan` is Wan with source concatenation, track tokens and LoRA; `parts` saves and loads what is trained, apart from the
base it was trained on.
"""
