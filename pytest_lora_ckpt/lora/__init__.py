"""What LoRA means: its configs, its pairs of factors, and its layers in a live model."""
