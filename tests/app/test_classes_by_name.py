"""Labels are mapped by name between data and network: data with the classes in another order give the same accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dojang
from dojang.app.beginning import Wanted, beginning
from dojang.app.samples import asked_of, load_samples, match_classes
from dojang.arith import classes
from dojang.base.errors import DataError
from dojang.engine.session import Session
from dojang.formats import checkpoint
from dojang.training.data import from_arrays
from dojang.training.load import load

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def named() -> dojang.Graph:
    graph = dojang.load("digits-cnn")
    return graph.replace(meta={**graph.meta, "classes": classes.as_text(WORDS)})


def accuracy(graph: dojang.Graph, source: object) -> float:
    data = match_classes(graph, load_samples(source, graph))
    outputs = Session(graph).run(data.test.inputs()).outputs[0]
    return data.test.accuracy(outputs)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_classes_gives_the_same_accuracy(named: dojang.Graph, tmp_path: Path, seed: int) -> None:
    digits = load("digits")
    true = accuracy(named, from_arrays(digits.train.x, digits.train.y, digits.test.x, digits.test.y, classes=WORDS))
    order = np.random.default_rng(seed).permutation(10)
    place = np.argsort(order)
    shuffled = [WORDS[i] for i in order]
    arrays = {"x": digits.train.x, "x_test": digits.test.x, "classes": np.asarray(shuffled)}
    np.savez(tmp_path / "n.npz", y=place[digits.train.y], y_test=place[digits.test.y], **arrays)
    np.savez(tmp_path / "s.npz", y=np.asarray(WORDS)[digits.train.y], y_test=np.asarray(WORDS)[digits.test.y], **arrays)
    assert true > 0.9
    assert accuracy(named, tmp_path / "n.npz") == true
    assert accuracy(named, tmp_path / "s.npz") == true
    del arrays["classes"]  # then the names' own order is that of the alphabet
    np.savez(tmp_path / "a.npz", y=np.asarray(WORDS)[digits.train.y], y_test=np.asarray(WORDS)[digits.test.y], **arrays)
    assert accuracy(named, tmp_path / "a.npz") == true


def test_some_of_the_classes_are_enough_and_others_are_refused(named: dojang.Graph) -> None:
    digits = load("digits")
    few = np.isin(digits.train.y, (3, 7))
    some = from_arrays(digits.train.x[few], np.asarray(WORDS)[digits.train.y[few]])
    data = match_classes(named, load_samples(some, named))
    assert data.classes == WORDS
    assert set(data.train.y) == {3, 7}
    assert any("8 of its 10 classes have no samples" in note for note in data.notes)
    odd = from_arrays(digits.train.x[few], np.where(digits.train.y[few] == 3, "three", "emu"))
    with pytest.raises(DataError, match="class 'emu' is not among the classes that digits-cnn was trained on"):
        match_classes(named, load_samples(odd, named))
    none = from_arrays(digits.train.x[few], np.where(digits.train.y[few] == 3, "eel", "emu"))
    with pytest.raises(DataError, match="use data of the same classes"):
        match_classes(named, load_samples(none, named))


def test_numbers_without_names_are_said_to_be_the_networks(named: dojang.Graph) -> None:
    digits = load("digits")
    data = match_classes(named, load_samples((digits.train.x, digits.train.y), named))
    assert data.classes == WORDS
    assert any("calls class 0 'zero'" in note for note in data.notes)


def test_floats_in_another_unit_than_the_networks_are_asked_for(named: dojang.Graph) -> None:
    digits = load("digits")
    mean, std = np.asarray(digits.normalisation.mean), np.asarray(digits.normalisation.std)
    true = accuracy(named, (digits.train.x, digits.train.y))
    wide = digits.train.x * 254.3
    with pytest.raises(DataError, match="--values 0-255"):
        load_samples((wide, digits.train.y), named)
    asked = asked_of(named, values="0-255")
    data = match_classes(named, load_samples((digits.train.x * 255, digits.train.y), named, asked=asked))
    assert data.test.accuracy(Session(named).run(data.test.inputs()).outputs[0]) == pytest.approx(true, abs=0.01)
    node = named.inputs[0]
    photo = named.replace(nodes=tuple(n.with_attrs(mean=(0.45,), std=(0.22,)) if n is node else n for n in named.nodes))
    before = ((digits.train.x - mean[0]) / std[0]).astype(np.float32)
    with pytest.raises(DataError, match="normalised if that was done before"):
        load_samples((before, digits.train.y), photo)
    data = load_samples((before, digits.train.y), named, asked=asked_of(named, values="normalised"))
    assert np.array_equal(np.sort(data.train.inputs(), None), np.sort(data.train.x, None))
    assert replace(data, name="").train.x.dtype == np.float32


def wanted(net: object, data: object, weights: Path | None = None) -> Wanted:
    return Wanted(net, data, None, weights, None, None, None, None, None, None, None, 0)


def test_a_file_of_weights_says_classes_and_normalisation(named: dojang.Graph, tmp_path: Path) -> None:
    """Weights that are put into a network by name were trained with the file's order of classes, and its mean."""
    node = named.inputs[0].with_attrs(mean=(0.25,), std=(0.5,))
    trained = named.replace(
        nodes=tuple(node if n is named.inputs[0] else n for n in named.nodes),
        meta={**named.meta, "values": "float"},
    )
    file = checkpoint.save(trained, tmp_path / "w.safetensors")
    x = np.zeros((20, 1, 8, 8), np.float32)
    some = from_arrays(x, np.asarray(WORDS)[np.arange(20) % 10], x, np.asarray(WORDS)[np.arange(20) % 10])
    for net in (dojang.load("digits-cnn", weights=file), beginning(wanted("digits-cnn", some, file)).graph):
        assert classes.from_text(net.meta["classes"]) == WORDS
        assert (net.inputs[0].attrs["mean"], net.inputs[0].attrs["std"]) == ((0.25,), (0.5,))
        assert net.meta["values"] == "float"


def test_a_network_that_knows_numbers_takes_names_in_their_order(named: dojang.Graph, tmp_path: Path) -> None:
    numbered = named.replace(meta={**named.meta, "classes": ", ".join(map(str, range(1, 11)))})
    digits = load("digits")
    some = from_arrays(digits.train.x, digits.train.y, digits.test.x, digits.test.y, classes=WORDS)
    data = match_classes(numbered, load_samples(some, numbered))
    assert data.classes == WORDS
    assert (data.train.y == digits.train.y).all()
    assert any("by number, in order: 1 is 'zero', 2 is 'one', 3 is 'two' and so on" in note for note in data.notes)
    begun = beginning(wanted(numbered, some))
    assert begun.anew == ()
    assert any("by number" in note for note in begun.samples.notes)
