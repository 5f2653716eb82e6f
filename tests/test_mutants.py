"""Mutants: what is drawn changes the code, and the nearest tests tell a killed one from one that survives."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.__main__ import Copy, Mutant, draw, nearest_tests
from tests.mutants.mutations import mutations
from tests.support.paths import REPOSITORY

SOURCE = '''"""Größe."""
LIMIT: int = 3

def f(x: "list[int]", key=None) -> int:
    g("ö", size=1 < x)
    if x in key and \\
            key:
        return -1
    return f"{x == 2}"
'''


def test_each_kind_of_mutation_is_found_and_applied_where_it_stands() -> None:
    found = {(one.line, one.kind, one.after) for one in mutations(SOURCE)}
    assert found == {
        (2, "constant", "(4)"), (2, "constant", "(2)"),
        (5, "statement", "pass"), (5, "argument", "g('ö')"), (5, "comparison", "1 <= x"),
        (5, "constant", "(2)"), (5, "constant", "(0)"),
        (6, "condition", "not (x in key and \\\n            key)"), (6, "comparison", "x not in key"),
        (8, "return", "return None"), (8, "constant", "(2)"), (8, "constant", "(0)"),
        (9, "return", "return None"),
    }  # fmt: skip
    original = ast.dump(ast.parse(SOURCE))
    for one in mutations(SOURCE):
        assert ast.dump(ast.parse(one.apply(SOURCE))) != original, one


def test_a_seed_draws_the_same_mutants_and_another_seed_others() -> None:
    first = draw(REPOSITORY, ["model"], 1, 20)
    assert len(first) == 20
    assert first == draw(REPOSITORY, ["model"], 1, 20) != draw(REPOSITORY, ["model"], 2, 20)
    assert {Path(one.path).parts[2] for one in first} == {"model"}


def test_every_mutant_of_the_four_packages_is_valid_python() -> None:
    for package in ("imaging", "model", "ledger", "review"):
        for one in draw(REPOSITORY, [package], 0, 100):
            ast.parse(one.mutation.apply((REPOSITORY / one.path).read_text(encoding="utf-8")))


def test_the_nearest_tests_begin_with_those_that_name_the_module() -> None:
    assert "test_calibration" in nearest_tests(REPOSITORY, "worker/preread/model/calibration.py")[0]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Copy]:
    with contextlib.closing(Copy(tmp_path, 120)) as copy:
        yield copy


def test_a_mutant_meets_the_tests_that_run_its_line_the_quickest_first(tmp_path: Path, tree: Copy) -> None:
    path = "worker/preread/model/calibration.py"
    for ring in ("unit", "integration"):
        for old in (tmp_path / "tests" / ring).rglob("model"):
            old.rename(old.with_name("elsewhere"))
    (tmp_path / "tests/conftest.py").unlink()
    own = tmp_path / "tests/unit/model"
    own.mkdir()
    source = "def double(x):\n    return x * 2\n\ndef half(x):\n    return x / (\n        2\n    )\n"
    (tmp_path / path).write_text(source, encoding="utf-8")
    test = (
        "import pytest\n"
        "from preread.model import calibration\n"
        "@pytest.fixture(scope='module')\n"
        "def made():\n    return calibration.double(1)\n"
        "def test_first(made):\n    assert made\n"
        "@pytest.mark.parametrize('text', ['a b'])\n"
        "def test_half(text):\n    assert calibration.half(4) == 2\n"
    )
    (own / "test_calibration.py").write_text(test, encoding="utf-8")
    tree.reach("model")
    names = [f"tests/unit/model/test_calibration.py::{name}" for name in ("test_first", "test_half[a b]")]
    tree.reached.seconds.update(zip(names, (2.0, 1.0), strict=True))
    double, *_, half = (one for one in mutations(source) if one.kind == "constant")
    assert tree.reached.tests(Mutant(path, half)) == names[1:], "the statement began a line above"
    assert tree.reached.tests(Mutant(path, double)) == names[::-1], "a fixture may serve all tests of its file"
    assert tree.judge(Mutant(path, half)) == ("killed", names[1])


def test_a_mutant_is_killed_by_the_tests_of_its_package_or_survives(tmp_path: Path, tree: Copy) -> None:
    path = "worker/preread/model/calibration.py"
    for old in (tmp_path / "tests").rglob("model"):
        old.rename(old.with_name("elsewhere"))
    (tmp_path / "tests/conftest.py").unlink()
    own = tmp_path / "tests/unit/model"
    own.mkdir()
    (tmp_path / path).write_text("LIMIT = 3\nOTHER = 3\n", encoding="utf-8")
    test = "from preread.model import calibration\n\ndef test_limit():\n    assert calibration.LIMIT == 3\n"
    (own / "test_calibration.py").write_text(test, encoding="utf-8")
    verdicts = [tree.judge(Mutant(path, one)) for one in mutations((tmp_path / path).read_text(encoding="utf-8"))]
    killed = ("killed", "tests/unit/model/test_calibration.py::test_limit")
    assert verdicts == [killed, killed, ("survived", ""), ("survived", "")]
    (mutation, *_) = mutations((tmp_path / path).read_text(encoding="utf-8"))
    (own / "test_calibration.py").write_text("def test_other():\n    assert False\n", encoding="utf-8")
    failed = "tests/unit/model/test_calibration.py::test_other"
    assert tree.judge(Mutant(path, mutation)) == ("unclear", failed), "it fails without the mutant as well"
    tree.limit_s = 0.01
    assert tree.judge(Mutant(path, mutation))[0] == "unclear", "no run ends in time, with or without the mutant"
