"""Every parser on its seeds, on inputs that were findings once, and on some hundred seeded mutations of them.

The long runs are `scripts/fuzz`'s, guided by coverage; bench/results/fuzz.txt records them.
"""

import random
import zlib
from pathlib import Path

import pytest

import fuzzing

RUNS = 300
KEPT = Path(__file__).parent / "fuzz_corpus"


@pytest.fixture(
    scope="module", params=["net", "onnx", "checkpoint", "tables", "sources", "pictures", "filtered", "tiff"]
)
def parser(request):
    target = fuzzing.TARGETS[request.param]
    return request.param, target, target.make()


def test_seeds_are_read_or_refused(parser):
    _, target, run = parser
    read = [fuzzing.guarded(run, seed) for seed in target.seeds()]
    assert any(read)


def test_what_was_a_finding_once(parser):
    name, _, run = parser
    for path in sorted((KEPT / name).glob("*")):
        fuzzing.guarded(run, path.read_bytes())


def test_mutations_end_well_or_with_an_error_of_ours(parser, capfd):
    name, target, run = parser
    seeds = target.seeds()
    for number in range(RUNS):
        rng = random.Random(zlib.crc32(name.encode()) + number)
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data = target.mutate(data, rng)
        try:
            fuzzing.guarded(run, data)
        except Exception as error:
            again = f'fuzzing.guarded(fuzzing.TARGETS["{name}"].make(), bytes.fromhex("{data.hex()}"))'
            raise AssertionError(f"mutation {number}: {error!r}; run it again: {again}") from error


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_the_check_sees_an_exception_that_is_not_ours(name):
    def run(data: bytes) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError):
        fuzzing.guarded(run, b"")
