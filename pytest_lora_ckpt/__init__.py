"""Did this LoRA checkpoint really load, and does the adapter do anything?"""

__version__ = "0.1.0"
