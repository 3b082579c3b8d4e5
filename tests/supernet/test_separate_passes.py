"""A sandwich whose passes are programs of their own: the steps of one program, exactly resumed."""

import dataclasses

import jax
import numpy as np
import pytest

from lanas_jax.candidates.population import forget_programs
from lanas_jax.supernet.sandwich import Sandwich, SandwichSupernet
from lanas_jax.supernet.training import SupernetTraining, train_supernet
from lanas_jax.trainer import compilation
from lanas_jax.trainer.passes import PassPrograms
from tests.supernet.linear_experiment import ENDS, streamed
from tests.supernet.linear_supernet import RECIPE, SPACE, LinearSupernet, VariedSupernet
from tests.supernet.notes import Note
from tests.trees import same

DATA, CODES = streamed(), SPACE.enumerate()
OFTEN = dataclasses.replace(RECIPE, checkpoint_seconds=0.0, label_smoothing=0.1, clip=0.5, ema=0.9)


def training(supernet, **recipe):
    return SupernetTraining(supernet, CODES, dataclasses.replace(OFTEN, **recipe), seed=5, sandwich=Sandwich(*ENDS))


def donated(program):
    """Positions of arguments whose memory the program reuses, all or no arrays of each."""
    flags = [{leaf.donated for leaf in jax.tree.leaves(one)} for one in program.args_info[0]]
    assert {len(flag) for flag in flags} == {1}
    return {i for i, flag in enumerate(flags) if flag == {True}}


@pytest.mark.parametrize(
    "over", [pytest.param("all", marks=pytest.mark.slow), pytest.param("device", marks=pytest.mark.slow), 2]
)
def test_steps_are_those_of_one_program(over):
    """With batch normalisation over four devices, each alone, or two and two; another pool needs no other programs."""
    trainings = [training(net(), normalize_over=over) for net in (LinearSupernet, VariedSupernet)]
    one, separate = (compilation.compile_training(each, DATA, jax.devices()[:4]) for each in trainings)
    assert isinstance(separate.program, PassPrograms)
    assert list(separate.program.passes) == ["largest", "smallest", "random, all", "random, half", "random, few"]
    assert [donated(program) for program in separate.program.passes.values()] == [set(), *[{2}] * 4]  # gradients so far
    assert donated(separate.program.apply) == {1}  # state
    for codes in (CODES, CODES[::-1]):
        (state, losses), (expected, theirs) = (
            made.advance(made.start(), 7)
            for made in (
                compiled.rebind(dataclasses.replace(each, codes=codes))
                for compiled, each in zip((separate, one), trainings[::-1], strict=True)
            )
        )
        assert int(state.step) == 7
        np.testing.assert_allclose(losses, theirs, rtol=1e-5)
        for ours, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_largest_one_drops_what_it_drops_in_one_program(monkeypatch):
    """Groups of devices drop different images of a batch."""
    sandwich = Sandwich((2, 2), (0, 0), drop_path=0.5)
    dropping = dataclasses.replace(training(VariedSupernet(), normalize_over=2), sandwich=sandwich)
    separate = compilation.compile_training(dropping, DATA, jax.devices()[:4])
    monkeypatch.setattr(SandwichSupernet, "pass_programs", ())
    forget_programs()  # which this network could share
    one = compilation.compile_training(dropping, DATA, jax.devices()[:4])
    assert [isinstance(made.program, PassPrograms) for made in (separate, one)] == [True, False]
    monkeypatch.undo()
    ours = separate.advance(separate.start(), 3)
    theirs = one.advance(one.start(), 3)
    for leaf, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_training_continues_to_the_same_bits(tmp_path):
    devices = jax.devices()[:1]
    made = compilation.compile_training(training(VariedSupernet()), DATA, devices)

    def carried_out(name, note):
        return train_supernet(
            training(VariedSupernet()), DATA, tmp_path / name, note, devices=devices, programs=made
        ).weights

    whole = carried_out("whole", Note())
    with pytest.raises(KeyboardInterrupt):
        carried_out("part", Note(3))
    assert same(carried_out("part", Note()), whole)
    assert (tmp_path / "part" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    other = dataclasses.replace(training(VariedSupernet()), sandwich=Sandwich(ENDS[1], ENDS[0]))
    with pytest.raises(ValueError, match="compiled for another network"):
        made.rebind(other)
