"""Adapters whose tensors are exchanged, of another rank, or turned; and layers too many or too few."""

from __future__ import annotations

from itertools import combinations

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, Pair
from pytest_lora_ckpt.faults.edits import first, redrawn
from pytest_lora_ckpt.faults.fault import LAYOUTS, fault


@fault(LAYOUTS, "manifest")
def layers_exchanged(draft: Draft) -> None:
    """A conversion sorted `10` before `2`: layers have each other's adapters, and every shape fits."""
    layers = selecting.lora_layers(draft, least=2)
    one, other = list(layers)[-2:]
    for key in selecting.keys_of(layers[one]):
        counterpart = selecting.in_layer(key, other)
        if counterpart in draft.entries and draft.keys[key].shape == draft.keys[counterpart].shape:
            draft.exchange(key, counterpart)


@fault(LAYOUTS, "file")
def layers_repeated(draft: Draft) -> None:
    """A loop wrote the first layer's adapter for every layer: the variable was bound late."""
    layers = selecting.lora_layers(draft, least=2)
    start, *others = layers
    sources = set(selecting.keys_of(layers[start]))
    for key in selecting.keys_of(pair for number in others for pair in layers[number]):
        source = selecting.in_layer(key, start)
        if source in sources and draft.keys[key].shape == draft.keys[source].shape:
            draft.replace(key, source, lambda tensor: tensor.clone())


@fault(LAYOUTS, "manifest")
def modules_exchanged(draft: Draft) -> None:
    """Two modules of one shape were taken for each other (gate and up, key and value) in every layer."""
    # Exchange the adapters of two modules that have one shape and one parent.
    by_parent: dict[str, list[Pair]] = {}
    for pair in draft.pairs:
        by_parent.setdefault(pair.module.rpartition(".")[0], []).append(pair)
    for pairs in by_parent.values():
        if (twins := _twins(draft, pairs)) is not None:
            for key, counterpart in zip(twins[0].keys, twins[1].keys, strict=True):
                draft.exchange(key, counterpart)


@fault(LAYOUTS, "file")
def factors_exchanged(draft: Draft) -> None:
    """Written with the names of the two factors the wrong way round: lora_A is called lora_B."""
    for pair in draft.pairs:
        draft.exchange(pair.down, pair.up)


@fault(LAYOUTS, "model")
def factors_transposed(draft: Draft) -> None:
    """Converted from a framework that keeps matrices the other way round: A is in x rank, B is rank x out."""
    factors = [key for pair in draft.pairs for key in (pair.down, pair.up) if _is_matrix(draft, key)]
    draft.change(factors, lambda tensor: tensor.t().contiguous(), "LoRA of linear layers")


@fault(LAYOUTS, "model", "https://github.com/huggingface/peft/issues/554")
def rank_halved(draft: Draft) -> None:
    """Compressed by a tool that cut the rank: the model is built with the rank of the training."""
    for pair in draft.pairs:
        _cut_rank(draft, pair)


@fault(LAYOUTS, "file")
def one_rank_odd(draft: Draft) -> None:
    """One layer comes from a run with another rank: checkpoints were put together by hand."""
    # Halve the rank of one pair of the middle layer, of a module that has the same rank in every layer.
    layers = selecting.lora_layers(draft, least=3)
    for pair in layers[selecting.middle(layers)]:
        peers = [each for each in draft.pairs if each.leaf == pair.leaf]
        ranks = {draft.keys[each.down].shape[:1] for each in peers}
        if len(peers) >= len(layers) and len(ranks) == 1 and _cut_rank(draft, pair):
            return
    raise NotApplicable("no module has the same rank above 1 in every layer")


@fault(LAYOUTS, "file")
def pair_of_two_ranks(draft: Draft) -> None:
    """A is of one run and B of another: their ranks do not agree, and nothing can multiply them."""
    # Halve the columns of one lora_B alone.
    for pair in draft.pairs:
        rank = draft.keys[pair.down].shape[0]
        if rank > 1 and _is_matrix(draft, pair.up):
            draft.change([pair.up], first(rank // 2, dim=1), "lora_B")
            return
    raise NotApplicable("every rank is 1 already")


@fault(LAYOUTS, "model")
def fewer_layers(draft: Draft) -> None:
    """Trained on a smaller or pruned variant of the base: the last layer of the model gets nothing."""
    layers = selecting.layers(draft, least=2)
    draft.drop(layers[max(layers)], "two layers")


@fault(LAYOUTS, "model")
def more_layers(draft: Draft) -> None:
    """Trained on a larger variant of the base: the last layer's tensors find no place and are dropped."""
    layers = selecting.layers(draft, least=1)
    last = max(layers)
    for key in layers[last]:
        new = selecting.in_layer(key, last + 1)
        draft.add(new, key, redrawn(new))


def _cut_rank(draft: Draft, pair: Pair) -> bool:
    """Halve a pair's rank, where that can be done."""
    rank = draft.keys[pair.down].shape[0]
    if rank < 2 or not (_is_matrix(draft, pair.down) and _is_matrix(draft, pair.up)):  # noqa: PLR2004
        return False
    draft.change([pair.down], first(rank // 2, dim=0), "lora_A")
    draft.change([pair.up], first(rank // 2, dim=1), "lora_B")
    return True


def _is_matrix(draft: Draft, key: str) -> bool:
    return len(draft.keys[key].shape) == 2  # noqa: PLR2004


def _twins(draft: Draft, pairs: list[Pair]) -> tuple[Pair, Pair] | None:
    """Return the first two pairs whose tensors have the same shapes."""
    kinds = {pair: (pair.adapter, [draft.keys[key].shape for key in pair.keys]) for pair in pairs}
    return next(((one, other) for one, other in combinations(pairs, 2) if kinds[one] == kinds[other]), None)
