"""The judges: data in, `Judgement` out. Checks and assertions ask the same ones, so that they cannot disagree."""
