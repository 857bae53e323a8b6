"""The shot as bpy data: built from a solve (shots), edited with Blender's own tools, read back as an edit (readback).

Only this folder knows Blender's axes and its camera model; its functions are called by the operators and by scripts
alike. World coordinates of the solve, less the shot's `origin`, are the root's local space.
"""
