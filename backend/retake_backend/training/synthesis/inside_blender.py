"""The door into Blender: shoots the scenes whose plans it is told, one line of JSON on stdin after the other.

    PYTHON_WITH_BPY inside_blender.py
    blender -b --factory-startup --python inside_blender.py

In: {"seed", "frames", "folder", "settings", "figures", "models", "modules"}. Out, among whatever Blender prints: lines
that begin with `@retake ` and hold {"done": what}, then {"ended": seed} or {"failed": why}. It ends with its input.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

MARK = "@retake "


def _say(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


def main() -> None:
    """Take orders until there are none."""
    for line in sys.stdin:
        order = json.loads(line)
        sys.path[:0] = [path for path in order["modules"] if path not in sys.path]
        from retake_backend.training.synthesis import plan
        from retake_backend.training.synthesis.scene import shooting

        try:
            files = plan.Files(tuple(order["figures"]), tuple(order["models"]))
            scene = plan.draw(order["seed"], order["frames"], files)
            settings = shooting.Settings(**order["settings"])
            shooting.shoot(scene, settings, Path(order["folder"]), lambda what: _say(done=what))
        except Exception as error:  # the next scene may be fine; this one is told of
            traceback.print_exc()
            _say(failed=f"{type(error).__name__}: {error}")
        else:
            _say(ended=order["seed"])


if __name__ == "__main__":
    main()
