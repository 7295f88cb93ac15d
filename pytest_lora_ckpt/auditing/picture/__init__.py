"""A model as a picture, layers x modules: what became of each key, as data that travels with the other facts."""

from pytest_lora_ckpt.auditing.picture.facts import STATUSES as STATUSES
from pytest_lora_ckpt.auditing.picture.facts import LayerCells as LayerCells
from pytest_lora_ckpt.auditing.picture.facts import ModuleCells as ModuleCells
from pytest_lora_ckpt.auditing.picture.facts import Place as Place
from pytest_lora_ckpt.auditing.picture.facts import Stack as Stack
from pytest_lora_ckpt.auditing.picture.facts import positions as positions
from pytest_lora_ckpt.auditing.picture.facts import union as union
from pytest_lora_ckpt.auditing.picture.places import place_of_module as place_of_module
from pytest_lora_ckpt.auditing.picture.sketch import Renaming as Renaming
from pytest_lora_ckpt.auditing.picture.sketch import draw as draw
from pytest_lora_ckpt.auditing.picture.sketch import draw_names as draw_names
from pytest_lora_ckpt.auditing.picture.sketch import draw_origins as draw_origins
from pytest_lora_ckpt.auditing.picture.sketch import draw_proof as draw_proof
from pytest_lora_ckpt.auditing.picture.sketch import mark as mark
