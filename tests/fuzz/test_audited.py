"""A short run of changed checkpoints through the audit, and what long runs found. The long one: see `audited`."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import audited

pytestmark = pytest.mark.slow


def test_no_changed_checkpoint_makes_the_audit_fail_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    counts, wrong, _ = audited.run(seed=20, numbers=range(200))
    assert wrong == {}
    assert counts.total() == 200
    assert min(counts["read"], counts["readable"], counts["safe"]) > 5, counts


def test_a_change_is_made_again_from_its_label(tmp_path: Path) -> None:
    for number in range(30):
        made = []
        for again in range(2):
            folder = tmp_path / f"{number}-{again}"
            folder.mkdir()
            path = audited.write(Random(f"1:{number}"), folder)
            files = [each for each in folder.rglob("*") if each.is_file()]
            made.append(
                (path.relative_to(folder), sorted((str(each.relative_to(folder)), each.read_bytes()) for each in files))
            )
        assert made[0] == made[1]


def test_every_field_of_a_json_text_is_changed_in_many_ways() -> None:
    whole = '{"r": 8, "target_modules": ["a", "b"], "rank_pattern": {"a": 4}}'
    changed = {audited.changed_json(Random(seed), whole) for seed in range(300)}
    assert len(changed) > 150
    for field in ("r", "target_modules", "rank_pattern"):
        assert any(each.count(f'"{field}"') == 2 for each in changed), field
        assert any(f'"{field}"' not in each for each in changed), field
