"""A result, made readable: one module per form, and one line in `register.py`. A renderer computes nothing."""

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.render.register import ENDINGS as ENDINGS
    from pytest_lora_ckpt.auditing.render.register import RENDERERS as RENDERERS
    from pytest_lora_ckpt.auditing.render.register import Renderer as Renderer
    from pytest_lora_ckpt.auditing.render.register import check_ending as check_ending
    from pytest_lora_ckpt.auditing.render.register import write_report as write_report

# A run that writes no report pays for no form but the terminal's.
__getattr__, __dir__, __all__ = attach(
    __name__, {"register": ("ENDINGS", "RENDERERS", "Renderer", "check_ending", "write_report")}
)
