"""A take without a window, for scripts and farms. Run by Blender as a file, so it stands on its own:

    blender -b shot.blend --python .../batch.py -- --engine preview --out take/
    blender -b --python .../batch.py -- --footage F --solve S --edit edit.json --out take/

`cli` says what may follow the `--`, and what the exit codes mean. The extension must be enabled.
"""

import importlib
import sys

import bpy


def enabled_extension() -> str | None:
    """The name under which Blender has loaded this extension, or None."""
    names = bpy.context.preferences.addons.keys()
    return next((name for name in names if name.rpartition(".")[2] in ("retake", "blender_addon")), None)


if __name__ == "__main__":
    extension = enabled_extension()
    if extension is None:
        print("Retake: the extension is not enabled. Enable it in Blender's preferences first.", file=sys.stderr)
        sys.exit(2)
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    sys.exit(importlib.import_module(f"{extension}.cli").main(arguments))
