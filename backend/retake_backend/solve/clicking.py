"""Masks of objects from clicks: SAM 2 follows what was pointed at through all frames, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_shared.clicks import MODEL, Click
from retake_shared.errors import BadShot
from retake_shared.shot import Footage

from ..engines.base import Progress, Report
from ..weights.catalogue import find
from ..weights.store import WeightStore
from .masks import MEAN, SPREAD, GivenMasks
from .stages import Pictures, picture

VERSION = 1

Place = tuple[int, float, float]
"""Where a click is among the pictures that are worked on: picture, x px, y px."""

Scores = NDArray[np.float32]


def network(store: WeightStore | None = None) -> str:
    """Names the weights that follow a click. Raises MissingWeights saying how large they are and how they are got."""
    store = store or WeightStore()
    store.place(MODEL)
    return f"{MODEL}, random" if store.random(MODEL) else MODEL


def check(clicks: Sequence[Click], known: Footage, chosen: range) -> None:
    """Raise BadShot for a click beside the picture, or in a frame of the footage that is not looked at."""
    for click in clicks:
        if not (click.x < known.width and click.y < known.height):
            remedy = f"The picture is {known.width} x {known.height} px: click in it."
            raise BadShot(f"({click.x:g}, {click.y:g}) is not in the picture.", f"click {click}", remedy)
        if click.frame not in chosen:
            near = chosen[min(max(round((click.frame - chosen.start) / chosen.step), 0), len(chosen) - 1)]
            what = f"frame {click.frame} is not one of the {len(chosen)} that are solved."
            raise BadShot(what, f"click {click}", f"Click in one that is, as frame {near}, or leave it out.")


def follow(
    clicks: Sequence[Click],
    pictures: Pictures,
    chosen: range,
    scale: tuple[float, float],
    report: Report,
    store: WeightStore | None = None,
    given: GivenMasks | None = None,
) -> GivenMasks:
    """The masks (T, h, w) of what the clicks point at, of the size of the pictures, beside those that were `given`.

    pictures: frames `chosen` of the footage; scale: px (x, y) of a picture to one of the footage. Objects are numbered
    in the order of their first clicks. Raises MissingWeights.
    """
    groups: dict[str | int, list[Place]] = {}
    for at, click in enumerate(clicks):
        place = (chosen.index(click.frame), click.x * scale[0], click.y * scale[1])
        groups.setdefault(click.name or at, []).append(place)
    height, width = picture(pictures, 0).shape[:2]
    labels = np.zeros((len(chosen), height, width), np.uint8)
    names: dict[int, str] = {}
    if given is not None:
        names.update(given.names)
        for t, layer in enumerate(given.labels):
            labels[t] = cv2.resize(layer, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    first = int(labels.max(initial=0)) + 1
    if first + len(groups) > 256:
        raise BadShot(f"there are {first - 1 + len(groups)} objects.", "--click", "Point at fewer: 255 at most.")
    drawn = labels > 0
    best = np.zeros(labels.shape, np.float16)
    done = 0
    for number, (name, places) in enumerate(groups.items(), first):
        names[number] = name if isinstance(name, str) else f"object {number}"

        def keep(t: int, score: Scores, number: int = number) -> None:
            nonlocal done
            surer = (score > best[t]) & ~drawn[t]
            labels[t][surer] = number
            best[t][surer] = score[surer]
            done += 1
            report(Progress("following what was clicked", done, len(groups) * len(chosen)))

        _track(places, pictures, len(chosen), keep, store)
    source = f"clicks, followed by {find(MODEL).label}"
    return GivenMasks(labels, names, source if given is None else f"{given.source} and {source}")


def notes(masks: GivenMasks, clicks: Sequence[Click], store: WeightStore | None = None) -> tuple[str, ...]:
    """What to say about masks that came of clicks."""
    count = f"{len(clicks)} click{'s' if len(clicks) > 1 else ''}"
    said = [f"What moves was pointed at with {count} and followed by {find(MODEL).label}."]
    lost = [name for number, name in masks.names.items() if not (masks.labels == number).any()]
    if lost:
        said.append(f"Nothing was found where {', '.join(lost)} was clicked: click on its middle, in another frame.")
    if (store or WeightStore()).random(MODEL):
        said.append("The weights that follow clicks are random: those masks mean nothing.")
    return tuple(said)


def _track(
    places: Sequence[Place],
    pictures: Pictures,
    count: int,
    keep: Callable[[int, Scores], None],
    store: WeightStore | None,
) -> None:
    """Give `keep` (t, (h, w) above 0 where the object is) of every picture once, from the first click on, then back."""
    import torch
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    loader: Any = Sam2VideoModel
    place = (store or WeightStore()).place(MODEL)
    model = loader.from_pretrained(place, local_files_only=True, use_safetensors=True).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    size = model.config.image_size
    side = int(size if isinstance(size, int) else size[0])
    height, width = picture(pictures, 0).shape[:2]
    session = Sam2VideoInferenceSession(
        video_height=height, video_width=width, inference_device=device, dtype=torch.float32
    )
    frames: Any = _Frames(pictures, count, side)
    session.processed_frames = frames
    mine = session.obj_id_to_idx(1)
    with torch.inference_mode():
        for frame in sorted({t for t, _, _ in places}):
            at = [[x * side / width, y * side / height] for t, x, y in places if t == frame]
            points = torch.tensor([[at]], dtype=torch.float32)
            marks = torch.ones(points.shape[:3], dtype=torch.int32)
            session.add_point_inputs(mine, frame, {"point_coords": points, "point_labels": marks})
            session.obj_with_new_inputs = [1]
            model(inference_session=session, frame_idx=frame)
        first = min(t for t, _, _ in places)
        reach = max(model.config.num_maskmem, model.config.max_object_pointers_in_encoder)
        remembered: dict[int, Any] = session.output_dict_per_obj[mine]["non_cond_frame_outputs"]
        for reverse in (False, True):
            for told in model.propagate_in_video_iterator(session, start_frame_idx=first, reverse=reverse):
                t = int(told.frame_idx)
                # What no later picture looks back at would fill the memory, 5 MB a picture.
                for old in [n for n in remembered if abs(n - t) > reach and n > first + reach * (not reverse)]:
                    del remembered[old]
                if reverse and t == first:
                    continue
                logits = told.pred_masks[0, 0].float().cpu().numpy()
                keep(t, np.asarray(cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR), np.float32))


class _Frames:
    """What SAM 2 sees of the pictures, made when it is asked for: 12 MB each."""

    def __init__(self, pictures: Pictures, count: int, side: int) -> None:
        self._pictures, self._count, self._side = pictures, count, side

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        import torch

        size = (self._side, self._side)
        seen = cv2.resize(picture(self._pictures, index), size, interpolation=cv2.INTER_AREA) / np.float32(255)
        return torch.from_numpy(((seen - MEAN) / SPREAD).astype(np.float32)).permute(2, 0, 1)
