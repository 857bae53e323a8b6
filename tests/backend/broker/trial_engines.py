"""Engines that misbehave on purpose, loaded into real workers through RETAKE_ENGINES. Options say how."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from retake_backend.engines.base import Progress, RenderedFrame
from retake_shared.errors import RetakeError


class Trial:
    """Gives the footage's frames back, `seconds` apart. options: die = crash at that frame, once per `witness` file or
    always; hang = sleep there without a word; fail = raise a RetakeError there; lost = one
    that says that its GPU is gone; killed = killed by the system there;
    refused_memory = the system gives no more memory there; compute = so many seconds of work before the first frame;
    pictures = height of a rough picture reported with every frame; keep = megabytes kept as a model is;
    starts = a program that it runs at every frame."""

    name = "trial"
    version = "1"

    def render(self, request, report):
        options = request.settings.options
        start, stop = request.settings.frame_range(request.solve)
        for index in range(start, stop):
            time.sleep(options.get("seconds", 0.0))
            if index == start and "compute" in options and self._first_time(options.get("witness")):
                until = time.monotonic() + options["compute"]
                while time.monotonic() < until:
                    hash("work")
            if "keep" in options:
                from retake_backend.models import resident

                resident.keep("trial", lambda: np.ones(options["keep"] * 2**20, np.uint8))
            if index == options.get("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if index == options.get("refused_memory"):
                np.empty(2**60, np.uint8)
            if index == options.get("die") and self._first_time(options.get("witness")):
                print("noise on stdout, which must not reach the broker's channel")
                print("out of memory, says the trial engine", file=sys.stderr, flush=True)
                os._exit(9)
            if index == options.get("hang") and self._first_time(options.get("witness")):
                time.sleep(1000)
            if index == options.get("fail"):
                raise RetakeError("the trial engine does not like it.", f"frame {index}", "Use another engine.")
            if "starts" in options:
                subprocess.run([options["starts"]], stdout=subprocess.DEVNULL, check=True)
            if index == options.get("lost"):
                from retake_backend.models.memory import DeviceLost

                raise DeviceLost("The GPU failed while it was at work.", "GPU", "Generate again.")
            rgb = request.footage.frame(index)
            if "pictures" in options:
                side = options["pictures"]
                rough = np.kron(rgb, np.ones((side // rgb.shape[0], side // rgb.shape[0], 1), np.uint8))
                report(Progress("denoising", index - start + 1, stop - start, rough))
            report(Progress("rendering", index - start + 1, stop - start))
            if request.first_frame is not None:
                rgb = request.first_frame
            yield RenderedFrame(index, rgb, np.zeros(rgb.shape[:2], np.uint8))

    def notes(self):
        return ("a trial",)

    @staticmethod
    def _first_time(witness):
        if witness is None:
            return True
        try:
            Path(witness).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Chattering(Trial):
    """Reports far more often than anybody can listen."""

    name = "chattering"

    def render(self, request, report):
        for step in range(100_000):
            report(Progress("thinking", step, 100_000))
        yield from super().render(request, report)
