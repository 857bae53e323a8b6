"""Stage 1 of the paper: pairs of videos rendered in Blender, where everything about both is known exactly.

`plan` draws a whole scene from a seed as plain data, `views` its cameras, `scene` builds and renders it inside
Blender, started and watched by `crew`; `pairing` turns what it wrote into `Pair`s, and `commands` is
`retake synthesize`. Only `scene` and its door `inside_blender` know bpy.
"""
