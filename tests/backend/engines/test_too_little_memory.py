"""Takes on a device that runs out of memory. The errors are torch's own, raised at a chosen step."""

import pytest
import torch
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.models.memory import OutOfMemory, Profile


def render(engine, request, report=lambda progress: None):
    return list(engine.render(request, report))


class SmallDevice(EditByTrackEngine):
    """The engine on the CPU under the profiles of a GPU; the too large ones run out of memory after two steps."""

    too_large = ("24",)

    def profile(self, options):
        cpu = torch.device("cpu")
        return Profile("24", cpu, cpu, torch.float32, torch.float32, torch.float32, keep=True, device_words="test")

    def load(self, wanted):
        model = super().load(wanted)
        if wanted.profile.name in self.too_large:
            steps = []

            def run_out(module, args):
                if len(steps) == 2:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                steps.append(1)

            model.transformer.register_forward_pre_hook(run_out)
        return model


def test_out_of_memory_begins_the_window_again_with_less(models, shot):
    engine = SmallDevice()
    request = shot(9, options={"steps": 2, "window": 5, "overlap": 1, "show": False, "working_size": 48})
    told = []
    made = render(engine, request, lambda progress: told.append(progress.stage))
    assert [frame.index for frame in made] == list(range(9))
    assert any("24 GB profile ran out of memory" in note and "12 GB" in note for note in engine.notes())
    # The first window was finished and is not made again: 2 steps of it, 2 of the second with the smaller profile.
    assert told.count("denoising, window 1 of 2") == 3
    assert told.count("denoising, window 2 of 2") == 4


def test_out_of_memory_with_every_profile_says_what_to_do(models, shot):
    engine = SmallDevice()
    engine.too_large = ("24", "12", "8", "6")
    with pytest.raises(OutOfMemory, match="working size"):
        render(engine, shot(1, options={"steps": 3, "working_size": 48}))
