"""The project that the pages speak of: a language model with LoRA, trained with Lightning."""
