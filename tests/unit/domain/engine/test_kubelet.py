"""The reference that other tests rely on, against what the kubelet's own tests say."""

import pytest
from tests.unit.domain.kubelet import expand

VARIABLES = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)_$(VAR_B)$(VAR_C)", "A_BC"),
        ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
        ("$$$(VAR_B)", "$B"),
        ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
        ("f000-$$VAR_A", "f000-$VAR_A"),
        ("$(VAR_REF)", "$(VAR_A)"),  # a value is not expanded again
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$", "$"),
        ("$VAR_A", "$VAR_A"),
        ("foo$", "foo$"),
        ("(VAR_A)", "(VAR_A)"),
        ("$(VAR_A", "$(VAR_A"),
        ("$()", "$()"),
        ("$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
        ("$(foo$$bar)", "$(foo$$bar)"),
    ],
)
def test_variables_are_expanded_as_the_kubelet_does(text: str, expanded: str) -> None:
    assert expand(text, VARIABLES) == expanded
