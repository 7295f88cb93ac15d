"""What the usual libraries call their classes and files, for the loaders that they document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK_MAPPINGS: Mapping[str, str] = {
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "FEATURE_EXTRACTION": "MODEL_MAPPING",
}
"""`task_type` of PEFT (peft/utils/peft_types.py, `TaskType`) -> transformers' table of the classes for it, which the
auto class in peft/auto.py takes (transformers/models/auto/modeling_auto.py)."""

HEADLESS_MAPPING = "MODEL_MAPPING"
"""transformers' table of models without a head, behind `AutoModel`."""

OF_GENERATION = frozenset({"CAUSAL_LM", "SEQ_2_SEQ_LM"})
"""Tasks with which people also train models that see or hear, whose class only the base model's config names."""

SENTENCE_MODULES = "modules.json"
"""What a model of sentence-transformers is made of (sentence_transformers/base/model.py)."""

DENOISERS = ("unet", "transformer", "prior")
"""The part of a pipeline of diffusers that takes the noise away (diffusers/pipelines/*/pipeline_*.py)."""

PIPELINE_INDEX = "model_index.json"
"""What a pipeline of diffusers is made of (diffusers/pipelines/pipeline_utils.py, `config_name`)."""

CHOICES_OF_CODE = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Fields of a model's config by which transformers may take code from the Hub
(transformers/integrations/hub_kernels.py)."""
