"""Correlation, spectrum and equivariance against NumPy's own formulas and networks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dojang
from digits import digits, random_features
from dojang.diagnosis import correlations, equivariance, spectra
from dojang.diagnosis.correlation import adjacent, seriate
from dojang.diagnosis.findings import judge
from dojang.engine.reference.operators import run_reference
from dojang.evidence import activations
from dojang.evidence.blocks import balanced, co_cluster
from dojang.evidence.evidence import Evidence
from nets import N, conv, feed, net, weighted


def test_the_matrix_is_numpys_corrcoef_with_the_smaller_map_upsampled():
    graph = weighted(
        net(conv("a", "x", 5), N("r", "relu", "a"), N("p", "maxpool", "r", kernel=(2, 2)), conv("b", "p", 4))
    )
    x = feed(graph, 70)["x"].astype(np.float32)
    (found,) = correlations(Evidence(graph, x))
    taps = run_reference(graph, x.astype(np.float64), np.float64, ("r", "b")).taps
    large = np.moveaxis(taps["r"], 1, 0).reshape(5, -1)
    small = np.moveaxis(taps["b"].repeat(2, axis=2).repeat(2, axis=3), 1, 0).reshape(4, -1)
    np.testing.assert_allclose(found.matrix, np.corrcoef(large, small)[:5, 5:], atol=1e-4)
    assert (found.before, found.after, found.pixels) == ("a", "b", 70 * 64)


def test_co_clustering_undoes_a_shuffle():
    rng = np.random.default_rng(1)
    blocks = np.kron(np.eye(4), np.ones((6, 8)))
    rows, columns = rng.permutation(24), rng.permutation(32)
    r, c, kept = co_cluster(blocks[rows][:, columns] + 0.05 * rng.random((24, 32)), 4, rng)
    assert kept > 0.85
    assert len({(a, b) for a, b in zip(rows // 6, r, strict=True)}) == 4
    assert len({(a, b) for a, b in zip(columns // 8, c, strict=True)}) == 4
    order = seriate(np.kron(np.eye(2), np.ones((3, 3)))[[0, 3, 1, 4, 2, 5]])[0]
    assert set(order[:3]) in ({0, 2, 4}, {1, 3, 5})


def test_balanced_fills_groups_equally():
    rng = np.random.default_rng(2)
    for groups in (2, 4, 8):
        out = balanced(rng.random((16, groups)))
        assert np.bincount(out, minlength=groups).tolist() == [16 // groups] * groups


def test_adjacency_goes_through_sums_and_not_through_layers():
    graph = net(conv("a", "x", 4), conv("b", "a", 4), N("s", "add", "a", "b"), N("r", "relu", "s"), conv("c", "r", 4))
    assert set(adjacent(graph)) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_the_output_spectrum_is_the_error_of_the_best_bottleneck():
    graph = weighted(net(conv("a", "x", 12), N("r", "relu", "a"), conv("b", "r", 10)))
    weights = {k: np.array(v) for k, v in graph.weights.items()}
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(10, 3)).astype(np.float32)
    weights["b.weight"] = np.tensordot(mix, rng.normal(size=(3, 12, 3, 3)).astype(np.float32), 1)
    graph = graph.replace(weights=weights)
    x = feed(graph, 20)["x"].astype(np.float32)
    found = {s.layer: s for s in spectra(Evidence(graph, x))}
    assert found["b"].rank(0.9999) == 3
    assert found["b"].rank(0.9999, "weights") == 3
    out = run_reference(graph, x.astype(np.float64), np.float64).outputs[0]
    rows = np.moveaxis(out, 1, -1).reshape(-1, 10)
    rows = rows - rows.mean(axis=0)
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    for r in (1, 2):
        kept = 1 - ((rows - (u[:, :r] * s[:r]) @ vt[:r]) ** 2).sum() / (rows**2).sum()
        assert found["b"].outputs[r - 1] == pytest.approx(kept, abs=1e-4)


def test_convolutions_move_along_and_dense_layers_do_not():
    graph = random_features(width=8)
    found = {e.layer: e for e in equivariance(graph, digits()[0][:50])}
    assert found["c1"].shift == 2  # the pool after c1 makes one place of c2 two pixels
    assert found["c1"].moved is not None
    assert found["c1"].moved < 1e-5
    assert found["c1"].still > 0.1
    assert found["c2"].moved is None or found["c2"].moved < 1e-5
    assert found["y"].moved is None
    assert found["y"].still > 0.1
    assert (found["c1"].places, found["y"].places) == (64, 1)


def test_what_moves_along_with_borders_is_by_numpy():
    graph = weighted(net(conv("a", "x", 4, padding=0), conv("b", "a", 4), shape=(3, 12, 12)))
    x = feed(graph, 5)["x"].astype(np.float32)
    shifted = np.concatenate([np.repeat(x[..., :1], 3, axis=-1), x[..., :-3]], axis=-1)
    old, new = (run_reference(graph, v, np.float64, ("a", "b")) for v in (x, shifted))
    found = {e.layer: e for e in equivariance(graph, x, 3)}
    for name in "ab":
        a, b = old.taps[name][..., :-3], new.taps[name][..., 3:]
        expected = np.sqrt(((b - a) ** 2).mean() / (a**2).mean())
        assert found[name].along == pytest.approx(expected, abs=1e-5)
    assert found["a"].along == pytest.approx(0, abs=1e-6)  # without padding nothing but moving
    assert found["b"].along > 0.05


def test_layers_too_wide_for_a_covariance_have_no_curve():
    graph = weighted(net(N("f", "flatten", "x"), N("y", "dense", "f", out=7), shape=(3, 32, 32)))
    (found,) = spectra(Evidence(graph, feed(graph, 9)["x"].astype(np.float32)))
    assert (found.inputs, found.rank(0.9, "inputs")) == ((), 0)
    assert (len(found.outputs), len(found.weights)) == (7, 7)


def test_an_odd_shift_cannot_move_a_pooled_map():
    wide = weighted(net(conv("a", "x", 4), N("p", "maxpool", "a", kernel=(2, 2)), conv("b", "p", 4), shape=(3, 16, 16)))
    x = feed(wide, 4)["x"].astype(np.float32)
    two, one = ({e.layer: e for e in equivariance(wide, x, shift)} for shift in (2, 1))
    assert two["b"].moved is not None
    assert two["b"].moved < 1e-5
    assert one["b"].moved is None
    assert one["a"].moved is not None


def test_a_pixel_shuffle_ends_what_is_followed_and_that_is_said() -> None:
    """In front of it a dead channel is found; behind it the channels are others, and that is listed."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Flatten(),
              nn.Linear(4 * 64, 3)]  # fmt: skip
    net = nn.Sequential(*layers).eval()
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 0, -1
        net[2].weight[7], net[2].bias[7] = 0, 0
    graph = dojang.load(net, input_size=(3, 8, 8))
    done = judge(Evidence(graph, np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)))
    dead = {(f.layer, f.channels) for f in done.findings if f.kind == "dead-proven"}
    assert {("0", (5,)), ("2", (7,))} <= dead
    said = [n.reason for n in done.unjudged if "followed up to" in n.reason]
    assert said == ["channels are followed up to 3.split, and not behind: their places change there"]
    plain = dojang.load(nn.Sequential(*layers[:3], *layers[4:6], nn.Linear(256, 3)).eval(), input_size=(3, 8, 8))
    assert not [n for n in judge(Evidence(plain)).unjudged if "followed up to" in n.reason]


@pytest.mark.parametrize("some", [1, 3, 64])
def test_few_samples_at_once_give_the_same_figures(some: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large samples are looked at a few at a time, which must change nothing."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()).eval()
    graph = dojang.load(net, input_size=(3, 12, 12))
    x = np.random.default_rng(1).normal(size=(9, 3, 12, 12)).astype(np.float32)
    each = 4 * sum(int(np.prod(shape)) for shape in graph.unit_shapes.values() if shape is not None)
    monkeypatch.setattr(activations, "BATCH_BYTES", each * some)
    monkeypatch.setattr(activations, "JOINT_BYTES", 1)
    assert activations.at_once(graph) == some
    with torch.no_grad():
        a, b = net[:2](torch.from_numpy(x)).double().numpy(), net(torch.from_numpy(x)).double().numpy()
    known = Evidence(graph, x)
    (pair,) = known.products([("1", "3")]).values()
    rows = a.transpose(0, 2, 3, 1).reshape(-1, 8)
    assert pair.rows == len(rows)
    np.testing.assert_allclose(pair.mean, rows.mean(0), rtol=1e-5)
    at = np.arange(a.shape[2]) * b.shape[2] // a.shape[2]
    other = b[:, :, at][..., at].transpose(0, 2, 3, 1).reshape(-1, 6)
    np.testing.assert_allclose(
        pair.covariance, (rows - rows.mean(0)).T @ (other - other.mean(0)) / len(rows), rtol=1e-3, atol=1e-5
    )
    moved = x[..., np.clip(np.arange(12) - 2, 0, None)]
    with torch.no_grad():
        c = net[:1](torch.from_numpy(moved)).double().numpy()
        old = net[:1](torch.from_numpy(x)).double().numpy()
    (first, _) = equivariance(graph, x, shift=2)
    assert first.still == pytest.approx(np.sqrt(((c - old) ** 2).mean() / (old**2).mean()), rel=1e-4)
    along = np.sqrt(((c[..., 1:] - old[..., :-1]) ** 2).sum() / (old[..., :-1] ** 2).sum())
    assert first.along == pytest.approx(along, rel=1e-4)
