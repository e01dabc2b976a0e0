"""Replaced-token detection: a small generator fills masked tokens, and the model tells which tokens are not original.

    the cat sat on the mat  →  the [MASK] sat on the mat  →  the dog sat on the mat      replaced? no yes no no no no
                               (read by the generator)       (read by the discriminator)

ELECTRA (Clark et al. 2020, arXiv 2003.10555, sections 2 and 3.2, and the ablations of section 3.5 and table 5);
gradient-disentangled embedding sharing of DeBERTaV3 (He et al. 2021, arXiv 2111.09543, section 3.2).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("rtd", generator_size=1 / 3)                                               # doctest: +SKIP
    >>> get_objective("rtd", tie="gdes", mask_replace_prob=1.0, discriminator_weight=10)         # doctest: +SKIP
    >>> get_objective("rtd", loss_on="selected")                                                  # doctest: +SKIP
    >>> get_objective("replace_mlm"), get_objective("all_tokens_mlm")                             # doctest: +SKIP

The generator's masking has no collator of its own for use without these models: it is `mlm` with `selection="exact"`,
`mask_replace_prob=0.85` and `random_replace_prob=0`, and replacing tokens takes a generator's predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from . import keyed
from .base import LABEL_COLUMNS, Column, Columns, Draws, Term
from .losses import token_losses
from .mlm import MaskedLM
from .registry import register
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..models.generator_discriminator import GeneratorDiscriminator
    from ..models.presets import Backbone

SAMPLE = 30
"""Stream of the numbers that the generator's tokens are drawn with, apart from those of `noise`."""

Losses = tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]]]


@dataclass(frozen=True)
class GeneratorObjective(MaskedLM):
    """Common part: a generator, trained as masked LM, whose samples replace the selected tokens of another network.

    The other network reads the original text with a sample of the generator at every selected position, also where the
    generator saw the token itself. Both are trained at once, and no gradient passes through the samples.

    Where paper and code differ: ELECTRA's released code draws positions with replacement, and averages the ids of
    samples that fall on one position, which gives arbitrary tokens; here positions are drawn without replacement.
    `max_predictions_per_seq` and other settings of `mlm` apply to the generator's input.

    Args:
        mask_replace_prob: share of selected tokens that the generator sees masked; it sees the others as they are.
            0.85 in ELECTRA, 1 in DeBERTaV3.
        generator_size: generator's width as a share of the other network's: hidden and feed-forward size, with heads
            of 64. ELECTRA: 1/4 for small and large, 1/3 for base. `None`: 1/4 where the architecture projects its
            embeddings to its width (electra, albert, deberta) or nothing is shared; otherwise, and with "gdes", 1.
        generator_depth: generator's layers as a share; `None`: 1 for a narrower generator, 1/2 (DeBERTaV3) for one as
            wide as the other network.
        generator_checkpoint: folder or Hub name of a generator to go on with, beside the backbone's checkpoint;
            `None` starts with a random one.
        tie: "shared": one set of embeddings for both networks (tokens, positions, types and their layer norm, as far
            as sizes agree; ELECTRA). "none": each has its own. "gdes": see `rtd`.
        temperature: the generator's logits are divided by it before a token is drawn.
        discriminator_weight: factor of the other network's loss; the generator's has factor 1.
    """

    architecture: ClassVar[str] = "generator_discriminator"
    main_term: ClassVar[str] = "mlm"

    mask_replace_prob: float = 0.85
    random_replace_prob: float = 0.0
    selection: Literal["independent", "exact"] = "exact"
    generator_size: float | None = None
    generator_depth: float | None = None
    generator_checkpoint: str | None = None
    tie: Literal["shared", "gdes", "none"] = "shared"
    temperature: float = 1.0
    discriminator_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("generator_size", "generator_depth"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is a share of the discriminator and must lie in 0 … 1, not {value}")
        if self.tie not in ("shared", "gdes", "none"):
            raise ValueError(f"tie must be 'shared', 'gdes' or 'none', not {self.tie!r}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}; 1e-4 takes the likeliest token")
        if self.discriminator_weight < 0:
            raise ValueError(f"discriminator_weight must not be negative, not {self.discriminator_weight}")

    @property
    def terms(self) -> dict[str, Term]:
        """The generator's loss, and the other network's."""
        return {"generator": Term(), self.main_term: Term(self.discriminator_weight)}

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and random bits for each."""
        return {**LABEL_COLUMNS, "sampling_bits": Column(axis="flat")}

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Also refuses backbones that no generator can be made for."""
        super().check(vocabulary, config)
        if config is not None:
            from ..models.generator import generator_config

            generator_config(config, self)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """The generator's input; at labelled positions the original ids and 24 random bits to draw a token with.

        Bits are whole numbers: FSDP and DeepSpeed would cast uniform numbers to half precision, which is too coarse.
        """
        columns = super().corrupt(rows, draws, vocabulary)
        positions = columns["label_positions"]
        bits = keyed.bits_at(np.repeat(draws.key, positions.lengths), positions.values, SAMPLE) >> np.uint64(40)
        return {**columns, "sampling_bits": positions.with_values(bits.astype(np.int64))}

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Selected tokens for the generator; for the other network the tokens its loss is taken on."""
        selected = (batch["label_ids"] != -100).sum()
        return {"generator": selected, self.main_term: self.main_count(batch, selected)}

    def main_count(self, batch: Mapping[str, torch.Tensor], selected: torch.Tensor) -> torch.Tensor:
        """Denominator of the other network's loss."""
        raise NotImplementedError

    def loss(self, outputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]) -> Losses:
        """Generator's cross-entropy and the other network's loss; metrics of both."""
        labels = batch["label_ids"]
        logits = outputs["generator_logits"]
        main, metrics = self.main_loss(outputs, batch)
        with torch.no_grad():
            selected = labels != -100
            correct = (logits.argmax(-1) == labels) & selected
            metrics["generator_accuracy"] = (correct.sum(), selected.sum())
            metrics["replaced_rate"] = (outputs["replaced"].sum(), batch["attention_mask"].sum())
        return {"generator": token_losses(logits, labels).sum(), self.main_term: main}, metrics

    def main_loss(self, outputs, batch) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Sum of the other network's losses, and its metrics."""
        raise NotImplementedError

    def build(self, backbone: Backbone, vocabulary: Vocabulary) -> GeneratorDiscriminator:
        """Both networks; the other network's weights come from the backbone's checkpoint, if it has one."""
        self.check(vocabulary, backbone.config)
        return self.model_class().build(self, backbone)

    def model_class(self) -> type[GeneratorDiscriminator]:
        """What `build` makes."""
        raise NotImplementedError

    def export(self, model) -> dict[str, Any]:
        """The other network as "", and the generator."""
        return model.plain_models()


@register("rtd")
@dataclass(frozen=True)
class ReplacedTokenDetection(GeneratorObjective):
    """Tell for every token whether it was replaced; a sample that happens to be the original counts as original.

    The discriminator is what gets exported, with its head where transformers has a class for it (electra).

    DeBERTaV3 is `tie="gdes"`, `mask_replace_prob=1`, `discriminator_weight=10` (its code; the paper says 50, as in
    ELECTRA). Its code trains the two networks by two optimizers in turn. With "gdes" they share no gradient, so one
    AdamW over both, which is indifferent to the factor of a loss, differs in the clipping of gradients only: it is by
    their common norm. Its generator's enhanced mask decoder is not part of this objective.

    Args:
        tie: "gdes", gradient-disentangled sharing: the discriminator's token and position tables are those of the
            generator, without gradient, plus differences of its own that begin at 0; the exported discriminator holds
            the sums. See `GeneratorObjective` for "shared" and "none".
        discriminator_weight: 50, as published; the mean of binary losses is that much smaller.
        loss_on: "all" tokens but padding, or the "selected" ones (the ablation ELECTRA 15 %).
    """

    summary: ClassVar[str] = "tell which tokens a generator replaced (ELECTRA, DeBERTaV3)"
    main_term: ClassVar[str] = "discriminator"

    discriminator_weight: float = 50.0
    loss_on: Literal["all", "selected"] = "all"

    def __post_init__(self):
        super().__post_init__()
        if self.loss_on not in ("all", "selected"):
            raise ValueError(f"loss_on must be 'all' or 'selected', not {self.loss_on!r}")

    def model_class(self):
        """Generator and discriminator."""
        from ..models.generator_discriminator import GeneratorDiscriminator

        return GeneratorDiscriminator

    def main_count(self, batch, selected):
        """Tokens but padding, or selected tokens."""
        return batch["attention_mask"].sum() if self.loss_on == "all" else selected

    def main_loss(self, outputs, batch):
        """Binary cross-entropy; accuracy, precision and recall of "replaced"."""
        logits, replaced = outputs["logits"], outputs["replaced"]
        if self.loss_on == "all":
            counted = batch["attention_mask"] != 0
        else:
            at = batch["label_positions"]
            logits, replaced = logits.reshape(-1)[at], replaced.reshape(-1)[at]
            counted = batch["label_ids"] != -100
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        losses = F.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype), reduction="none")
        with torch.no_grad():
            said = (logits > 0) & counted
            hits = (said & replaced).sum()
            metrics = {
                "discriminator_accuracy": ((((logits > 0) == replaced) & counted).sum(), counted.sum()),
                "discriminator_precision": (hits, said.sum()),
                "discriminator_recall": (hits, (replaced & counted).sum()),
            }
        return torch.where(counted, losses, 0).sum(), metrics


@register("replace_mlm")
@dataclass(frozen=True)
class ReplaceMLM(GeneratorObjective):
    """Predict the originals of selected tokens from text in which a generator, not a mask token, replaced them.

        the cat sat on the mat  →  the dog sat on the mat      predict: cat

    ELECTRA's ablation "Replace MLM": masked LM without mask tokens in the model's input. The exported model is a masked
    LM. The factor of its loss is not published; both losses have factor 1.
    """

    summary: ClassVar[str] = "predict tokens that a generator replaced (ELECTRA's ablation)"

    def __post_init__(self):
        super().__post_init__()
        if self.tie == "gdes":
            raise ValueError(f"{self.name} predicts tokens by the table that 'gdes' splits; use tie='shared' or 'none'")

    def model_class(self):
        """Generator and masked LM."""
        from ..models.generator_discriminator import GeneratorMaskedLM

        return GeneratorMaskedLM

    def main_count(self, batch, selected):
        """Selected tokens."""
        return selected

    def main_loss(self, outputs, batch):
        """Cross-entropy over the selected tokens; accuracy."""
        logits, labels = outputs["logits"], batch["label_ids"]
        with torch.no_grad():
            counted = labels != -100
            correct = (logits.argmax(-1) == labels) & counted
        return token_losses(logits, labels).sum(), {"accuracy": (correct.sum(), counted.sum())}


@register("all_tokens_mlm")
@dataclass(frozen=True)
class AllTokensMLM(ReplaceMLM):
    """Predict the originals of all tokens from text in which a generator replaced some.

        the cat sat on the mat  →  the dog sat on the mat      predict: the cat sat on the mat

    ELECTRA's ablation "All-Tokens MLM": p(original) = D · [input is the original] + (1 − D) · softmax, with a copy
    probability D per token. The vocabulary is predicted at every token, which costs what the paper says it costs.
    """

    summary: ClassVar[str] = "predict all tokens of a text that a generator changed (ELECTRA's ablation)"

    def model_class(self):
        """Generator and masked LM with a copy head."""
        from ..models.generator_discriminator import GeneratorAllTokens

        return GeneratorAllTokens

    def main_count(self, batch, selected):
        """Tokens but padding."""
        return batch["attention_mask"].sum()

    def main_loss(self, outputs, batch):
        """−log p(original) over all tokens but padding; accuracy of the likeliest token."""
        copy, original, replaced = outputs["copy_logits"], outputs["original_ids"], outputs["replaced"]
        logits = outputs["logits"]
        half = logits.dtype in (torch.float16, torch.bfloat16)
        copy, logits = (copy.float(), logits.float()) if half else (copy, logits)
        counted = batch["attention_mask"] != 0
        predicted = F.logsigmoid(-copy) - token_losses(logits.flatten(0, 1), original.flatten()).view_as(copy)
        likelihood = torch.where(replaced, predicted, torch.logaddexp(F.logsigmoid(copy), predicted))
        with torch.no_grad():
            share = copy.sigmoid().unsqueeze(-1)
            mixture = (1 - share) * logits.softmax(-1)
            mixture.scatter_add_(-1, outputs["input_ids"].unsqueeze(-1), share)
            answer = mixture.argmax(-1)
            correct = (answer == original) & counted
        return -torch.where(counted, likelihood, 0).sum(), {"accuracy": (correct.sum(), counted.sum())}
