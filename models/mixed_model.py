"""The model that the components of a mixture share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..objectives.base import Objective
from ..objectives.sentence_pairs import SentencePairs
from ..objectives.sharing import parts_of
from ..objectives.translation import TranslationLM
from .bidirectional import is_causal_only
from .build_model import build_model
from .pretraining import PretrainingModel
from .ranked_attention import RankedAttentionModel
from .sentence_pairs import build_pair_model
from .translation import TranslationModel

if TYPE_CHECKING:
    from ..objectives.mixture import Mixture
    from ..objectives.vocabulary import Vocabulary
    from .presets import Backbone


def build_mixed_model(mixture: Mixture, backbone: Backbone, vocabulary: Vocabulary) -> PretrainingModel:
    """From a backbone. Raises `ValueError`, saying why, for one that a component cannot train."""
    objectives = list(mixture.components.values())
    if mixture.ranked:
        return _build_ranked(mixture, backbone, vocabulary)
    if any(isinstance(objective, TranslationLM) for objective in objectives):
        return TranslationModel.build(mixture, backbone, vocabulary)
    pairs = [part for objective in objectives for part in parts_of(objective) if isinstance(part, SentencePairs)]
    if pairs:
        return build_pair_model(mixture, backbone, vocabulary, pairs[0].num_labels)
    if all(type(objective).build is Objective.build for objective in objectives):
        return build_model(mixture, backbone, vocabulary)
    mixture.check(vocabulary, backbone.config)
    model = objectives[0].build(backbone, vocabulary)
    model.objective = mixture
    return model


def _build_ranked(mixture: Mixture, backbone: Backbone, vocabulary: Vocabulary) -> PretrainingModel:
    """A model that attends by rank: a masked LM where the backbone has one, else a causal LM without its mask."""
    causal = is_causal_only(backbone.config)
    object.__setattr__(mixture, "architecture", "causal_lm" if causal else "masked_lm")
    model = RankedAttentionModel.build(mixture, backbone, vocabulary)
    if causal and list(mixture.components.values())[-1].architecture == "masked_lm":
        model.config.is_causal = False  # stock classes, which know no ranks, read in both directions then
    return model
