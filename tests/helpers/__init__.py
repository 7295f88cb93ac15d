"""What several tests share: samples, situations, worlds, and runs of pytest."""
