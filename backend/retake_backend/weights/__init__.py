"""The weights that the diffusion engines run on: which there are, which are here, and how they come here.

    <models>/<name>/                    one installed model: diffusers' layout, or trained parts as `models.parts` writes them
    <models>/<name>/retake_model.json   where it came from, its licence, size and sha256 of every file
    models/weights/<name>/              in the backend itself: what comes with it, until one of that name is installed
    <models>/.incoming/<name>/          what is being pulled or imported; it never counts as installed

`catalogue` names the models that Retake knows, `shipped` finds those that come along, `store` says what is installed
and where, `contents` looks into files without running anything in them, `pull` brings a model from the hub, `importing` one from a folder, `commands` are
`retake models ...`, `task` is the same as a process of the broker. `<models>` is $RETAKE_MODELS, else `models` in the
home folder. Weights are safetensors only: no file that could hold code is downloaded, copied or opened. Nothing here
imports torch.
"""
