"""Every deliberate error carries its numbers, and the numbers mean something."""

import inspect
import re

import pytest

from emailerctl.errors import EmailerError
from tests.house.generate import find_problems

EXIT_CODES = {1, 2, 65, 66, 69, 75, 77, 78}


@pytest.mark.parametrize("error", find_problems(), ids=lambda error: error.__name__)
def test_an_error_has_code_title_status_exit_code_and_docstring(
    error: type[EmailerError],
) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]+", error.code)
    assert error.title
    assert not error.title.endswith(".")
    assert 400 <= error.status < 600
    assert error.exit_code in EXIT_CODES
    assert "__doc__" in vars(error)
    assert (inspect.cleandoc(error.__doc__ or "")).endswith(".")
    assert not error.hint.endswith(".")


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in find_problems()]

    assert sorted(codes) == sorted(set(codes))
    assert all("code" in vars(error) for error in find_problems())


def test_try_later_is_said_by_status_and_exit_code_alike() -> None:
    for error in find_problems():
        if error.status == 429:
            assert error.exit_code == 75
        if error.exit_code == 77:
            assert error.status in {401, 403}
