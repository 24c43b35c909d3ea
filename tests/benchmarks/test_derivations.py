"""How long derivations take: the promise is 2 s for any one and 60 s for the whole catalogue, on two cores.

The promise is for a derivation or its refusal, whatever the rule.
"""

import contextlib
from time import perf_counter

import pytest
from aggregated_momentum import AggregatedMomentum
from symbolic import catalogue
from symbolic.hard_directions import hard_rules

from swd_dynamics import symbolic
from swd_dynamics.rules import CATALOG, Stable, UpdateRule
from swd_dynamics.symbolic import linear, modified, trace

DERIVATIONS = [derive.__name__ for derive in catalogue.DERIVATIONS]
RULES = {name: symbolic.lettered(catalogue.rule_of(name))[0] for name in CATALOG}
RULES["aggregated momentum × stable"] = symbolic.lettered(UpdateRule(0.1, AggregatedMomentum(0.5, 0.9), Stable(0.1)))[0]


def forget():
    """Empty the caches, so that every round derives again (sympy's own cache stays, as in a session)."""
    for cached in (trace.trace, modified._derive, linear.find_linear_map):
        cached.cache_clear()


@pytest.mark.parametrize("what", DERIVATIONS)
@pytest.mark.parametrize("name", ["SGDS", "Adam", "AdamS", "AdaiS", "aggregated momentum × stable"])
def test_one_derivation(benchmark, name, what):
    """Assert that a derivation finishes, and time it."""
    assert benchmark.pedantic(getattr(symbolic, what), (RULES[name],), setup=forget, rounds=3).results


def test_the_whole_catalogue(benchmark):
    """Assert that everything that an entry has is derived for every entry, and time it."""
    asked = [(derive, RULES[name]) for name, derive in catalogue.pairs(tuple(CATALOG))]

    def everything():
        return [derive(rule) for derive, rule in asked]

    assert len(benchmark.pedantic(everything, setup=forget, rounds=1)) == len(asked)


@pytest.mark.parametrize(("name", "rule"), list(hard_rules()), ids=str)
def test_every_derivation_of_a_hard_rule(benchmark, name, rule):
    """Assert that each derivation of a hard rule ends within 2 s, with a result or with a refusal."""
    taken = dict.fromkeys(DERIVATIONS, 0.0)

    def everything():
        for what in DERIVATIONS:
            start = perf_counter()
            with contextlib.suppress(symbolic.NotDerivable):
                getattr(symbolic, what)(rule)
            taken[what] = perf_counter() - start

    benchmark.pedantic(everything, setup=forget, rounds=1)
    assert max(taken.values()) < 2, taken
