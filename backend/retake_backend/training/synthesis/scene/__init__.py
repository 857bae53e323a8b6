"""What runs inside Blender: it builds the scene of a plan, shows it at any moment, renders it and writes down the truth.

`gaits` and `motions` say how things move, without bpy; `people`, `props` and `imported` build those who act, `places`
with their `things` where they do, `looks` what all of it is made of; `shooting` renders. Meshes, armatures, node
graphs and surface points come from the sample shot's modules, which lie beside retake_shared.
"""
