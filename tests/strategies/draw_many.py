"""Draw healthy checkpoints by the thousand, audit each, and print every alarm; for runs by hand, in pieces.

    OMP_NUM_THREADS=1 nice python -m tests.strategies.draw_many 2500 --seed 1

Each checkpoint is audited with one of the four means of `gate_means`, which is drawn too, or with `--all` with every
one. The same number and seed draw the same checkpoints. Exits 1 where there was an alarm.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.strategies import CheckpointRecipe, HealthyCheckpoint, checkpoint_recipes
from tests.helpers.gate_means import MEANS, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="audit each with all four means")
    options = parser.parse_args()
    drawn: collections.Counter[str] = collections.Counter()
    alarms: list[str] = []

    @seed(options.seed)
    @settings(
        max_examples=options.examples,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
        phases=[Phase.generate],
    )
    @given(checkpoint_recipes(), st.sampled_from([*reversed(MEANS)]))
    def draw(recipe: CheckpointRecipe, one: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = HealthyCheckpoint.write(recipe, folder)
            for means in MEANS if options.all else [one]:
                found = failures(checkpoint, means)
                drawn[means] += 1
                if found:
                    alarms.append(means)
                    sys.stdout.write(f"ALARM {recipe!r}\n" + "".join(f"  {line}\n" for line in found))
                    sys.stdout.flush()

    draw()
    cpu = time.process_time()
    sys.stdout.write(f"seed {options.seed}: {dict(drawn)} audits, {len(alarms)} alarms, {cpu:.0f} s CPU\n")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
