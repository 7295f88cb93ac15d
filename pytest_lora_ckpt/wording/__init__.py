"""How this package writes: counts, lists, key groups, tables; and `printable`, for everything that a file says."""

from pytest_lora_ckpt.wording.patterns import group_keys as group_keys
from pytest_lora_ckpt.wording.safe import WIDTH as WIDTH
from pytest_lora_ckpt.wording.safe import SafeText as SafeText
from pytest_lora_ckpt.wording.safe import line as line
from pytest_lora_ckpt.wording.safe import literal as literal
from pytest_lora_ckpt.wording.safe import printable as printable
from pytest_lora_ckpt.wording.safe import tame as tame
from pytest_lora_ckpt.wording.text import beginning as beginning
from pytest_lora_ckpt.wording.text import block as block
from pytest_lora_ckpt.wording.text import capped as capped
from pytest_lora_ckpt.wording.text import count as count
from pytest_lora_ckpt.wording.text import dtype_name as dtype_name
from pytest_lora_ckpt.wording.text import grouped as grouped
from pytest_lora_ckpt.wording.text import key_groups as key_groups
from pytest_lora_ckpt.wording.text import listed as listed
from pytest_lora_ckpt.wording.text import said as said
from pytest_lora_ckpt.wording.text import sentence as sentence
from pytest_lora_ckpt.wording.text import size as size
from pytest_lora_ckpt.wording.text import table as table
from pytest_lora_ckpt.wording.text import type_name as type_name
from pytest_lora_ckpt.wording.text import wrap as wrap
