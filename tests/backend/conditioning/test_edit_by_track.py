"""The 3D track encoder computes the formulas of Edit-by-Track, in every row of its ablation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retake_backend.conditioning.coordinates import TrackPairs, cell_centres
from retake_backend.conditioning.edit_by_track import EditByTrackConditioner

D, GRID, FRAMES, COUNT = 10, (3, 4), 3, 6
ABLATION = {
    "fixed Gaussian": {"splat": "gaussian", "depth_injection": False},
    "fixed Gaussian with depth injection": {"splat": "gaussian", "depth_injection": True},
    "2D": {"dims": 2, "depth_injection": False},
    "2D with depth injection": {"dims": 2, "depth_injection": True},
    "3D without depth injection": {"dims": 3, "depth_injection": False},
    "3D with depth injection": {"dims": 3, "depth_injection": True},
    "3D, random start": {"kernel_start": False},
    "one wide head": {"heads": 1, "temporal_layers": 1},
}


def shake(model):
    """Weights as if trained: nothing zero, disparity counts, q and k differ."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ABLATION)
def test_agrees_with_the_formulas(name, reference, random_pairs):
    torch.manual_seed(0)
    options = {"token_dim": D, "width": 16, "heads": 2, "frequencies": 3, "kernel_width": 0.2, **ABLATION[name]}
    model = EditByTrackConditioner(**options)
    shake(model)
    pairs = random_pairs(1, FRAMES, COUNT)
    pairs.source_present[0, :, 0] = False  # never seen in the source
    pairs.target_present[0, 1] = False  # a frame without any track
    tokens = torch.randn(1, FRAMES * GRID[0] * GRID[1], D)

    weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
    expected = reference.edit_by_track(
        weights,
        dict(model.config),
        tokens[0].double().numpy(),
        (pairs.source[0].double().numpy(), pairs.target[0].double().numpy()),
        (pairs.source_present[0].numpy(), pairs.target_present[0].numpy()),
        GRID,
    )
    with torch.no_grad():
        actual = model.double()(tokens.double(), pairs, GRID)
    for got, wanted in zip(actual, expected, strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(got[0].numpy(), wanted, rtol=1e-4, atol=1e-5)  # phases are float32


def kernel_model(grid, **options):
    """Values pass through unchanged from sampling to the output: only where they land is tested."""
    torch.manual_seed(0)
    defaults = {"token_dim": 16, "width": 32, "heads": 1, "frequencies": 7, "temporal_layers": 0}
    model = EditByTrackConditioner(**{**defaults, "depth_injection": False, **options})
    model.temporal.norm = torch.nn.Identity()
    model.temporal.forward = lambda features, present, budget: features
    with torch.no_grad():
        model.to_values.weight.copy_(torch.eye(32, 16))
        model.out.weight.copy_(torch.eye(16, 32))
        for projection in ("sampling_out", "splatting_values"):
            if hasattr(model, projection):
                getattr(model, projection).weight.copy_(torch.eye(32))
                getattr(model, projection).bias.zero_()
    return model


@pytest.mark.parametrize(
    "options", [{"splat": "gaussian"}, {"dims": 2}, {"dims": 3}, {"dims": 3, "heads": 2, "frequencies": 4}]
)
def test_what_a_track_picks_up_lands_in_its_target_cell(options):
    """Before any training: 'near cells attend near tracks', at every disparity."""
    h, w = grid = (6, 8)
    model = kernel_model(grid, kernel_width=0.03, **options)
    centres = cell_centres(h, w)
    cells = torch.arange(h * w)
    moved = (cells + 13) % (h * w)
    disparity = torch.linspace(0, 1, h * w)[:, None]
    present = torch.ones(1, 1, h * w, dtype=torch.bool)
    pairs = TrackPairs(
        torch.cat([centres, disparity], 1)[None, None],
        torch.cat([centres[moved], disparity.flip(0)], 1)[None, None],
        present,
        present,
        present,
    )
    for lit in (0, 7, 20, h * w - 1):
        tokens = torch.zeros(1, h * w, 16)
        tokens[0, lit] = 1.0
        with torch.no_grad():
            source, target = (tau[0].mean(-1) for tau in model(tokens, pairs, grid))
        assert source.argmax() == lit
        assert target.argmax() == moved[lit]
        assert target[moved[lit]] > 2.5 * target[cells != moved[lit]].max()


def test_the_start_is_a_gaussian_of_the_screen_distance():
    """The attention's weights over cells have the standard deviation that the configuration names."""
    h, w = grid = (60, 60)
    model = EditByTrackConditioner(token_dim=8, width=64, heads=2, frequencies=8, kernel_width=1 / 24)
    track = torch.tensor([0.43, 0.61, 0.8])
    with torch.no_grad():
        keys = model.sampling.to_k(model._encode_cells(grid, track.device))
        query = model.sampling.to_q(model._encode(track))
    centres = cell_centres(h, w)
    for head in (slice(0, 32), slice(32, 64)):
        share = (keys[:, head] @ query[head] / 32**0.5).softmax(0)[:, None]
        mean = (share * centres).sum(0)
        std = (share * (centres - mean) ** 2).sum(0).sqrt()
        torch.testing.assert_close(mean, track[:2], rtol=0, atol=0.01)
        torch.testing.assert_close(std, torch.full((2,), 1 / 24), rtol=0.15, atol=0)


def test_depth_reaches_the_output_by_two_ways_and_2d_by_none():
    """Table 3: the third coordinate of rho tells tracks of one place apart; sigma says how far what is splatted lies."""
    xyz = torch.tensor([[0.5, 0.5, 0.2], [0.5, 0.5, 0.9]])[None, None]
    swapped, nearer = xyz.clone(), xyz.clone()
    swapped[..., 2] = xyz[..., 2].flip(-1)
    nearer[..., 2] += 0.1
    source = xyz.clone()
    source[0, 0, 1, :2] = 0.1
    present = torch.ones(1, 1, 2, dtype=torch.bool)
    tokens = torch.randn(1, 12, D, generator=torch.Generator().manual_seed(0))

    def changes(other, **options):
        torch.manual_seed(0)
        model = EditByTrackConditioner(token_dim=D, width=16, heads=2, frequencies=3, **options)
        shake(model)
        with torch.no_grad():
            one, two = (model(tokens, TrackPairs(source, t, present, present, present), GRID)[1] for t in (xyz, other))
        return bool((one - two).abs().max() > 1e-3)

    assert not changes(nearer, dims=2, depth_injection=False)
    assert not changes(nearer, splat="gaussian", depth_injection=False)
    assert changes(swapped, depth_injection=False)
    assert not changes(swapped, dims=2)
    assert changes(nearer, dims=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splat": "nearest"}, 'splat is "nearest"'),
        ({"dims": 4}, "dims is 4"),
        ({"width": 30, "heads": 4}, "width 30 is not a multiple"),
        ({"width": 16, "heads": 8}, "too narrow for a coordinate kernel"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EditByTrackConditioner(token_dim=D, **options)
