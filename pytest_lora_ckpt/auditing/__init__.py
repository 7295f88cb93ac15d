"""The audit of one checkpoint: what is known of it, the checks, and the result.

The room is `auditing`, for `pytest_lora_ckpt.audit` is the function.
"""
