"""Conditions between the choices of a space: their checks, and the number of codes that they leave.

A choice with `Choice.when` exists only in networks whose earlier choices have certain options. `base.py` computes from
these conditions which choices of a code are active.
"""

import math

from lanas_jax.spaces.choices import Choice, Option


def check_conditions(choices: tuple[Choice, ...]) -> None:
    """Checks the conditions of the choices of a space.

    Raises:
      ValueError: if a condition refers to something other than an earlier choice, or to options that the earlier choice
        does not have; names the choice.
    """
    names = {choice.name for choice in choices}
    earlier: dict[str, tuple[Option, ...]] = {}
    for choice in choices:
        for name, wanted in choice.when:
            if name not in earlier:
                why = "comes no earlier in the space" if name in names else "does not exist"
                raise ValueError(
                    f"choice {choice.name!r} depends on {name!r}, which {why}: "
                    f"expected an earlier choice ({', '.join(earlier) or 'there is none'})"
                )
            missing = [option for option in wanted if not any(_same(option, other) for other in earlier[name])]
            if missing:
                raise ValueError(
                    f"choice {choice.name!r} depends on the option {missing[0]!r} of {name!r}, "
                    f"which has only {', '.join(map(repr, earlier[name]))}"
                )
        earlier[choice.name] = choice.options


def _same(option: Option, other: Option) -> bool:
    """Returns whether two options are equal, and both or neither are Booleans."""
    return option == other and isinstance(option, bool) == isinstance(other, bool)


def parents_of(choices: tuple[Choice, ...]) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Returns the conditions of each choice: positions of earlier choices, and of the options that satisfy them."""
    at = {choice.name: i for i, choice in enumerate(choices)}
    return [
        [(at[name], tuple(map(choices[at[name]].options.index, options))) for name, options in choice.when]
        for choice in choices
    ]


def count_assignments(choices: tuple[Choice, ...]) -> int:
    """Returns the exact number of different assignments of options to the active choices.

    Choices are assigned in order. Partial assignments that no later condition distinguishes are merged.
    """
    sizes, parents = [len(choice.options) for choice in choices], parents_of(choices)
    last = {parent: i for i, conditions in enumerate(parents) for parent, _ in conditions}  # last choice that depends
    if not last:
        return math.prod(sizes)
    tested = {parent: sorted({opts for c in parents for p, opts in c if p == parent}) for parent in last}
    counts: dict[tuple[tuple[int, tuple[bool, ...]], ...], int] = {(): 1}  # what later conditions test -> assignments
    for i, size in enumerate(sizes):
        after: dict[tuple[tuple[int, tuple[bool, ...]], ...], int] = {}
        for seen, count in counts.items():
            holds = dict(seen)
            exists = all(holds[parent][tested[parent].index(options)] for parent, options in parents[i])
            left = tuple(entry for entry in seen if last[entry[0]] > i)
            if i not in last:
                after[left] = after.get(left, 0) + count * (size if exists else 1)
                continue
            options = range(size) if exists else (None,)
            for option in options:
                key = (*left, (i, tuple(option in opts for opts in tested[i])))
                after[key] = after.get(key, 0) + count
        counts = after
    return sum(counts.values())
