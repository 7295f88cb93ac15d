"""DeepSpeed's checkpoints: which files are one, what each rank's say, and how their flat tensors become the model's.

Sources: deepspeed/runtime/engine.py (`_common_checkpoint_state`, `_save_zero_checkpoint`), the `state_dict` of
deepspeed/runtime/zero/stage_1_and_2.py, stage3.py and deepspeed/runtime/bf16_optimizer.py, and
deepspeed/utils/zero_to_fp32.py, which puts a model together.
"""
