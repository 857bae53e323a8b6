"""Video frames <-> latents: Wan's VAE, and a rough look at latents without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from numpy.typing import NDArray
from retake_shared.errors import BadShot
from torch import Tensor, nn

from ..engines.base import Progress, Report
from . import memory
from .loading import pretrained
from .memory import Profile


class VideoCodec:
    """Wan's VAE on uint8 frames and normalised latents; the same input gives the same output.

    vae: diffusers' own. It is on the profile's device while it works, and leaves it afterwards where the profile says
    so. strides: (frames, height, width) of a latent cell in px, (4, 8, 8) for Wan 2.1; the first latent frame is one
    video frame. channels: of the latents.
    """

    def __init__(self, vae: AutoencoderKLWan, profile: Profile) -> None:
        self.vae: Any = vae
        self.profile = profile
        config: Any = vae.config
        spatial = int(config.scale_factor_spatial)
        self.strides = (int(config.scale_factor_temporal), spatial, spatial)
        self.channels = int(config.z_dim)
        shape = (1, self.channels, 1, 1, 1)
        self._mean = torch.tensor(config.latents_mean).view(shape)
        self._scale = 1.0 / torch.tensor(config.latents_std).view(shape)
        self._patch = int(config.patch_size or 1)
        memory.place(vae, profile, "vae")  # from here on it is known whether it works in tiles
        memory.put_aside(vae, profile)

    @classmethod
    def load(cls, place: Path, profile: Profile) -> VideoCodec:
        """From `<place>/vae`. Raises BadFile when it is damaged or no such VAE."""
        vae = pretrained(AutoencoderKLWan, place, "Wan VAE", place / "vae", subfolder="vae", dtype=profile.vae_dtype)
        return cls(vae.eval().requires_grad_(False), profile)

    def encode(self, frames: NDArray[np.uint8], report: Report | None = None, stage: str = "encoding") -> Tensor:
        """sRGB frames (F, H, W, 3) uint8 -> normalised latents (1, C, f, h, w) float32 on the CPU.

        The mode of the posterior, no sample. F must be 4k + 1 and the size a multiple of the strides (BadShot).
        report is called before every chunk and may raise Cancelled.
        """
        count, height, width = frames.shape[:3]
        time, down, across = self.strides
        if (count - 1) % time or height % down or width % across:
            raise BadShot(
                f"{count} frames of {width} x {height} px were given to the VAE.",
                "frames",
                f"Give it {time}k + 1 frames with sides that are multiples of {down}.",
            )

        def normalised(chunk: Tensor) -> Tensor:
            """uint8 of the CPU as the VAE takes it. Chunk by chunk: a whole video in float would be four times it."""
            pixels = 2.0 * (chunk.to(self.profile.device, torch.float32) / 255.0) - 1.0
            return pixels.to(self.profile.vae_dtype)

        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None]
        chunks = (1 + (count - 1) // time) * self._tiles(height // self._patch, width // self._patch)
        with self._at_work(self.vae.encoder, _reporter(report, stage, chunks), incoming=normalised):
            latents: Tensor = self.vae.encode(video).latent_dist.mode().to("cpu", torch.float32)
        return (latents - self._mean) * self._scale

    def decode(self, latents: Tensor, report: Report | None = None, stage: str = "decoding") -> NDArray[np.uint8]:
        """Normalised latents (1, C, f, h, w) on any device -> sRGB frames (F, H, W, 3) uint8.

        report is called before every chunk and may raise Cancelled.
        """
        f, h, w = latents.shape[2:]
        time, down, across = self.strides
        tiles = self._tiles(h * down, w * across)
        frames = np.empty(((f - 1) * time + 1, h * down, w * across, 3), np.uint8)
        done = 0

        def take(chunk: Tensor) -> Tensor:
            """Keep a chunk as finished frames and leave nothing of it on the device."""
            nonlocal done
            pixels = unpatchify(chunk, self._patch)  # type: ignore[no-untyped-call]
            frames[done : done + pixels.shape[2]] = _to_uint8(pixels)
            done += pixels.shape[2]
            return chunk[..., :0, :0]

        # Tiles are blended by diffusers once all are there; on the CPU, where the room is.
        outgoing = take if tiles == 1 else lambda chunk: chunk.to("cpu", torch.float32)
        raw = latents.to("cpu", torch.float32) / self._scale + self._mean
        with self._at_work(self.vae.decoder, _reporter(report, stage, f * tiles), outgoing=outgoing):
            blended = self.vae.decode(raw.to(self.profile.device, self.profile.vae_dtype), return_dict=False)[0]
        if tiles > 1:
            for index in range(len(frames)):
                frames[index] = _to_uint8(blended[:, :, index : index + 1])[0]
        return frames

    def _tiles(self, height: int, width: int) -> int:
        """How many tiles diffusers makes of a picture of that size, given as it compares it with a tile's."""
        vae = self.vae
        if not vae.use_tiling or (width <= vae.tile_sample_min_width and height <= vae.tile_sample_min_height):
            return 1
        return int(-(-height // vae.tile_sample_stride_height) * -(-width // vae.tile_sample_stride_width))

    @contextmanager
    def _at_work(
        self,
        part: nn.Module,
        before: Callable[[], None],
        incoming: Callable[[Tensor], Tensor] = lambda chunk: chunk,
        outgoing: Callable[[Tensor], Tensor] = lambda chunk: chunk,
    ) -> Iterator[None]:
        """The VAE on its device; before every chunk `before` is called, which may raise; chunks pass the two functions.

        diffusers runs the encoder and the decoder once per latent frame (and tile), which is where hooks come in.
        """

        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            before()
            return (incoming(args[0]), *args[1:])

        memory.place(self.vae, self.profile, "vae")
        hooks = [
            part.register_forward_pre_hook(enter),
            part.register_forward_hook(lambda module, args, chunk: outgoing(chunk)),
        ]
        try:
            with torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()
            self.vae.clear_cache()  # what an interrupted run had in it
            memory.put_aside(self.vae, self.profile)


@dataclass(frozen=True)
class LatentToRgb:
    """A linear look at latents: colour = (latent, 1) . weights, fitted to one video. weights: (C + 1, 3) float32."""

    weights: Tensor

    @classmethod
    def fit(cls, latents: Tensor, frames: NDArray[np.uint8]) -> LatentToRgb:
        """Least squares of latents (1, C, f, h, w) -> mean colour of their cells in frames (F, H, W, 3) uint8."""
        f, h, w = latents.shape[2:]
        count, height, width = frames.shape[:3]
        stride = (count - 1) // (f - 1) if f > 1 else 1
        if count != (f - 1) * stride + 1 or height % h or width % w:
            raise ValueError(f"latents {tuple(latents.shape)} are not of frames {frames.shape}")
        colours = np.empty((f, h, w, 3))
        for index in range(f):
            group = frames[max(index * stride - stride + 1, 0) : index * stride + 1]
            colours[index] = group.reshape(len(group), h, height // h, w, width // w, 3).mean((0, 2, 4))
        values = _with_one(latents).double().numpy()
        weights = np.linalg.lstsq(values, colours.reshape(-1, 3), rcond=1e-6)[0]
        return cls(torch.from_numpy(weights.astype(np.float32)))

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """(1, C, f, h, w) on any device -> (f, h, w, 3) uint8 sRGB."""
        colours = (_with_one(latents) @ self.weights).clamp(0, 255)
        picture: NDArray[np.uint8] = (colours + 0.5).to(torch.uint8).view(*latents.shape[2:], 3).numpy()
        return picture


def _with_one(latents: Tensor) -> Tensor:
    """(1, C, f, h, w) -> (f * h * w, C + 1) float32 on the CPU, a one behind each."""
    values = latents[0].detach().to("cpu", torch.float32).flatten(1).T
    return torch.cat([values, values.new_ones(len(values), 1)], 1)


def _reporter(report: Report | None, stage: str, chunks: int) -> Callable[[], None]:
    """Counts chunks for the user."""
    done = 0

    def before() -> None:
        nonlocal done
        if report is not None:
            report(Progress(stage, done, chunks))
        done += 1

    return before


def _to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """(1, 3, F, H, W) in -1 .. 1 (beyond is clamped) -> (F, H, W, 3), halves rounded up."""
    levels = (pixels[0].float().clamp(-1, 1) * 0.5 + 0.5) * 255.0 + 0.5
    frames: NDArray[np.uint8] = levels.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    return frames
