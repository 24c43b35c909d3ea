"""Tables: entries in brackets, after a dot and by Tab, and docstrings that tools show."""

import copy
import pickle
import pydoc

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import swd_dynamics as sd
from swd_dynamics.errors import InputError
from swd_dynamics.optim import OPTIMIZERS
from swd_dynamics.rules import CATALOG, DECAYS
from swd_dynamics.tables import Table, UnknownName
from swd_dynamics.tasks import TASKS

TABLES = {"CATALOG": CATALOG, "DECAYS": DECAYS, "TASKS": TASKS, "OPTIMIZERS": OPTIMIZERS}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_dot_is_a_pair_of_brackets(table):
    """Assert that an entry is had after a dot, and that the names of all entries are completed in both ways."""
    for name in filter(str.isidentifier, table):
        assert getattr(table, name) is dict(table)[name]
        assert name in dir(table)
    assert table._ipython_key_completions_() == list(table)


@pytest.mark.slow
def test_tab_completes():
    """Assert that IPython completes the names of optimizers after a dot and in brackets."""
    shell = InteractiveShell()
    shell.user_ns["CATALOG"] = CATALOG
    for typed in ("CATALOG.AMSG", 'CATALOG["AMSG'):
        with provisionalcompleter():
            found = [each.text for each in shell.Completer.completions(typed, len(typed))]
        assert any("AMSGradS" in text for text in found), typed


def test_a_long_table_names_the_nearest():
    """Assert that the error of a table of fifty names has the nearest first, and counts the others."""
    table = Table("quantity", **{f"name_{i}": i for i in range(50)})
    with pytest.raises(UnknownName) as caught:
        table["name_49x"]
    said = str(caught.value)
    assert "known: name_49, " in said and said.endswith("and 45 more") and said.count("name_") == 6


def test_the_methods_of_a_dictionary_are_kept():
    """Assert that an entry with the name of a method is found in brackets only."""
    table = Table("word", items=1, other=2)
    assert list(table.items()) == [("items", 1), ("other", 2)]
    assert (table["items"], table.other) == (1, 2)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_a_copy_is_a_table(twin):
    """Assert that a copied or pickled table is the same table, although tools ask it for methods it does not have."""
    made = twin(DECAYS)
    assert dict(made) == dict(DECAYS)
    assert made.stable is DECAYS.stable
    with pytest.raises(UnknownName):
        _ = made["stabel"]


def test_an_unknown_name_after_a_dot():
    """Assert that it is an AttributeError, as ``hasattr`` needs it, and an InputError with the same message."""
    assert not hasattr(CATALOG, "AdmaW")
    with pytest.raises(AttributeError) as dotted:
        _ = CATALOG.AdmaW
    with pytest.raises(UnknownName) as bracketed:
        _ = CATALOG["AdmaW"]
    assert isinstance(dotted.value, InputError) and str(dotted.value) == str(bracketed.value)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_help_shows_every_entry(table):
    """Assert that help() of a table is about this table, with a line for each entry."""
    shown = pydoc.plain(pydoc.render_doc(table))
    assert "gren" not in shown  # the example of the class
    lines = {line.strip().partition(" : ")[0] for line in shown.splitlines() if " : " in line}
    assert set(table) <= lines


@pytest.mark.parametrize("name", CATALOG)
def test_help_of_an_entry_explains_every_argument(name):
    """Assert that help() of an optimizer gives its call and, for each argument, a line of its own and a meaning."""
    shown = pydoc.plain(pydoc.render_doc(CATALOG[name])).splitlines()
    assert any(f'CATALOG["{name}"](lr=' in line for line in shown)
    lines = [line.strip() for line in shown]
    for argument in CATALOG[name].__signature__.parameters:
        assert lines[lines.index(argument) + 1]


def test_the_other_adams_is_named():
    """Assert that both places that are called AdamS name the paper whose optimizer has the same name."""
    assert "2505.16363" in (CATALOG["AdamS"].__doc__ or "")
    assert "2505.16363" in (sd.AdamS.__doc__ or "")


@pytest.mark.parametrize("name", ["LARS", "AdaBound", "Adan", "SOAP", "Shampoo", "Prodigy", "LAMB", "Nonesuch"])
def test_an_optimizer_of_the_world(name):
    """Assert that a name without a rule is answered with what can be done: audit, record, or a rule of one's own."""
    with pytest.raises(UnknownName) as caught:
        CATALOG[name]
    for help_ in ("audit", "record", "four methods", "rules.Direction"):
        assert help_ in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), [("LBFGS", "one gradient"), ("SparseAdam", "every weight")])
def test_an_optimizer_that_is_not_a_rule(name, reason):
    """Assert that a name that can have no rule is answered with the reason, and not with how to write the rule."""
    with pytest.raises(UnknownName, match=f"{name} is not a rule: .*{reason}") as caught:
        CATALOG[name]
    assert "four methods" not in str(caught.value)


@pytest.mark.parametrize("name", ["AdmaW", "adam", "SDGS", "AMSgrad"])
def test_a_slip_is_not_an_optimizer_of_the_world(name):
    """Assert that a misspelt name is answered with the known names and no more."""
    with pytest.raises(UnknownName) as caught:
        CATALOG[name]
    assert "audit" not in str(caught.value)


def test_a_class_in_the_place_of_a_name():
    """Assert that a class is answered with the known names, those like its own name first."""
    with pytest.raises(UnknownName, match="known: SGD, "):
        CATALOG[sd.rules.SGD]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("count", [12, 13, 50])
def test_an_unknown_name_among_many(count):
    """Assert that the error names all of a dozen names, and otherwise the nearest five and how many more there are."""
    table = Table("word", **{f"w{i:02}": i for i in range(count)})
    with pytest.raises(UnknownName) as caught:
        _ = table["w07x"]
    named = str(caught.value).partition("known: ")[2].partition(" and ")
    assert named[0].startswith("w07, ") and len(named[0].split(", ")) == (12 if count == 12 else 5)
    assert named[2] == ("" if count == 12 else f"{count - 5} more")


def test_a_slip_in_a_name_of_the_package():
    """Assert that the package names what is nearest, and at most five names."""
    with pytest.raises(AttributeError) as caught:
        _ = sd.Flwo  # pyright: ignore[reportAttributeAccessIssue]
    said = str(caught.value)
    assert "it has Flow, " in said and said.count(",") == 4


def test_a_part_of_a_name_finds_it():
    """Assert that names that contain what was typed are named before a shorter name that looks more like it."""
    table = Table("word", **{"eps": 0, "maps": 1, "eps-on-mean-root": 2})
    with pytest.raises(UnknownName, match="known: eps-on-mean-root, "):
        _ = table["eps-on"]
