"""The dual-view conditioner computes section 3.2 of Track2View; its geometry has no parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend.conditioning.coordinates import TrackPairs, cell_centres
from retake_backend.conditioning.track2view import Track2ViewConditioner, bilinear_weights

D, GRID, FRAMES, COUNT = 10, (3, 4), 3, 9


def shaken(**options):
    torch.manual_seed(0)
    model = Track2ViewConditioner(**{"token_dim": D, "width": 16, "heads": 2, "layers": 2, "frequencies": 3, **options})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"average": "count"}, {"token_dim": 16}, {"heads": 1, "layers": 8}],
    ids=["default", "average by count", "the model's width", "eight layers"],
)
def test_agrees_with_the_formulas(options, reference, random_pairs):
    model = shaken(**options)
    pairs = random_pairs(1, FRAMES, COUNT)
    pairs.source_present[0, :, 0] = False  # never seen in the source
    pairs.target_present[0, 1] = False  # a frame without any track
    tokens = torch.randn(1, FRAMES * GRID[0] * GRID[1], model.config.token_dim)

    weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
    expected = reference.track2view(
        weights,
        dict(model.config),
        tokens[0].double().numpy(),
        (pairs.source[0].double().numpy(), pairs.target[0].double().numpy()),
        (pairs.source_present[0].numpy(), pairs.target_present[0].numpy()),
        pairs.source_visible[0].numpy(),
        GRID,
    )
    with torch.no_grad():
        actual = model.double()(tokens.double(), pairs, GRID)
    for got, wanted in zip(actual, expected, strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(got[0].numpy(), wanted, rtol=1e-4, atol=1e-5)  # weights are float32


def test_sampling_is_torchs_bilinear_grid_sample():
    xy = 1.2 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) - 0.1
    picture = torch.randn(1, 5, 6, 9)
    wanted = torch.nn.functional.grid_sample(
        picture, (2 * xy - 1)[None, None], padding_mode="border", align_corners=False
    )[0, :, 0].T
    torch.testing.assert_close(bilinear_weights(xy, (6, 9)) @ picture[0].flatten(1).T, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", ["weights", "count"])
def test_what_a_track_picks_up_lands_in_its_target_cell(average):
    h, w = grid = (6, 8)
    torch.manual_seed(0)
    model = Track2ViewConditioner(token_dim=16, width=16, heads=1, layers=0, frequencies=2, average=average)
    model.temporal.forward = lambda features, present, budget: features
    with torch.no_grad():
        model.out.weight.copy_(torch.eye(16))
        for layer in (model.position.linear, model.disparity.linear, model.refine_out):
            layer.weight.zero_()
            layer.bias.zero_()
    centres = cell_centres(h, w)
    moved = (torch.arange(h * w) + 13) % (h * w)
    present = torch.ones(1, 1, h * w, dtype=torch.bool)

    def view(xy):
        return torch.cat([xy, torch.rand(h * w, 1)], 1)[None, None]

    pairs = TrackPairs(view(centres), view(centres[moved]), present, present, present)
    tokens = torch.randn(1, h * w, 16)
    with torch.no_grad():
        source, target = model(tokens, pairs, grid)
    torch.testing.assert_close(source, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target[:, moved], tokens, rtol=1e-4, atol=1e-4)

    half_a_cell = view(centres[moved])
    half_a_cell[..., 0] += 0.5 / w
    one = TrackPairs(view(centres), half_a_cell, present, present, present).select(torch.tensor([3]))
    tokens = torch.ones(1, h * w, 16)
    with torch.no_grad():
        target = model(tokens, one, grid)[1][0, :, 0]
    reached = target.nonzero()[:, 0].tolist()
    assert reached == [int(moved[3]), int(moved[3]) + 1]
    torch.testing.assert_close(target[reached], torch.full((2,), 1.0 if average == "weights" else 0.5))


def test_occluded_frames_take_their_context_from_visible_ones():
    """Section 3.2: the padding mask keeps what lies in front of an occluded point out of its track."""
    model = shaken()
    xyz = torch.full((1, FRAMES, 1, 3), 0.4)
    present = torch.ones(1, FRAMES, 1, dtype=torch.bool)
    visible = torch.tensor([True, False, True])[None, :, None]
    pairs = TrackPairs(xyz, xyz, present, present, visible)
    tokens = torch.randn(1, FRAMES * 12, D)
    occluder = tokens.clone()
    occluder[:, 12:24] += 5.0  # another thing passes in front at latent frame 1
    with torch.no_grad():
        calm, passing = (model(t, pairs, GRID)[1].view(FRAMES, 12, D) for t in (tokens, occluder))
        unaware = replace(pairs, source_visible=present)
        disturbed = model(occluder, unaware, GRID)[1].view(FRAMES, 12, D)
    torch.testing.assert_close(calm[[0, 2]], passing[[0, 2]])
    assert (disturbed[0] - calm[0]).abs().max() > 0.01


def test_a_point_outside_either_picture_is_invalid_there():
    model = shaken()
    xyz = torch.tensor([[0.5, 0.5, 0.3]]).expand(1, FRAMES, 1, 3).clone()
    present = torch.ones(1, FRAMES, 1, dtype=torch.bool)
    away = xyz.clone()
    away[0, 1, 0, 0] = 1.01
    tokens = torch.randn(1, FRAMES * 12, D)
    with torch.no_grad():
        source, target = model(tokens, TrackPairs(xyz, away, present, present, present), GRID)
    assert source.view(FRAMES, -1).any(1).tolist() == [True, True, True]
    assert target.view(FRAMES, -1).any(1).tolist() == [True, False, True]


def test_the_geometry_has_no_parameters():
    learned = {
        name.split(".")[0] for name, _ in Track2ViewConditioner(token_dim=8, width=16, heads=2).named_parameters()
    }
    assert learned == {
        "to_values", "position", "refine_norm", "refine_in", "refine_out", "temporal", "disparity", "out"
    }  # fmt: skip
    assert Track2ViewConditioner(token_dim=8, width=16, heads=2).config.layers == 8


def test_an_unknown_average_is_refused():
    with pytest.raises(ValueError, match='average is "median"'):
        Track2ViewConditioner(token_dim=8, width=16, heads=2, average="median")
