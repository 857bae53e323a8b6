"""What an artist may choose in the panel can be said on a command line too, and comes to the engine as the same value."""

import pytest
from retake_shared.arguments import option
from retake_shared.engine_options import ENGINES, describe
from retake_shared.errors import BadShot

CHOICES = [
    pytest.param(engine.name, each.name, value, id=f"{engine.name}-{each.name}-{value}")
    for engine in ENGINES
    for each in engine.options
    for value, _, _ in each.choices
]


@pytest.mark.parametrize(("engine", "name", "value"), CHOICES)
def test_every_choice_can_be_given_on_a_command_line(engine, name, value):
    assert describe(engine).checked(dict([option(f"{name}={value}")]))[name] == value


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_default_can_be_given_on_a_command_line(engine):
    words = [f"{each.name}={str(each.default).lower()}" for each in engine.options]
    assert engine.checked(dict(map(option, words))) == {each.name: each.default for each in engine.options}


def test_what_is_no_choice_is_refused_by_name():
    with pytest.raises(BadShot, match="is 7") as refused:
        describe("vace").checked({"memory": 7})
    assert "Use one of auto, 24, 12, 8, 6, cpu" in refused.value.remedy
