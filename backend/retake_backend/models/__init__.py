"""The video models: diffusers' own classes, with the source video beside the noisy target, and the small draft models.

`wan` is Wan with source concatenation, track tokens and LoRA; `parts` saves and loads what is trained, apart from the
base it was trained on. `draft` and `refiner`, built of `draft_layers`, correct the preview; `draft_weights` is how they
lie on disk. `text` reads prompts, `codec` brings frames to latents and back. `loading` reads diffusers' folders;
`memory`, `resident` and `speed` say how models are held, kept and made fast; `random_weights` writes tiny ones for
tests and the demo.
"""
