"""Engines: each turns footage, a solve and an edit into the frames of a take (`base.Engine`)."""
