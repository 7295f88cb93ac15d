"""What `torch.distributed.checkpoint` writes: `.metadata`, a pickle, and the chunks of tensors in the ranks' files."""
