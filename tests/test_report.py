"""What a run reports: baselines against a hand count, lines and table, plot, model card, what the model says."""

import copy
import io
import math

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training.baselines import pair_label_loss, predicted_tokens, unigram_baseline
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.examples import examples, sentences
from pretrain_zoo.training.report import duration, log_line, model_card, plot_losses, results_table
from pretrain_zoo.training.tokenizer import train_tokenizer

TEXTS = [
    "The cat sat on the mat and looked at the birds in the tree. The birds saw the cat and did not come down again."
] * 4 + [
    "A dog ran over the hill to the house of the old man. The man gave the dog some bread and a bowl of water."
] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, "wordpiece", 200)


@pytest.fixture(scope="module")
def causal_tokenizer():
    return train_tokenizer(TEXTS, "gpt2", 400)


RESULTS = {
    "objective": "mlm",
    "model": "bert-tiny",
    "held_out": {"loss": 2.5, "perplexity": 12.18, "accuracy": 0.412},
    "baseline": {"loss": 4.0, "perplexity": 54.6, "accuracy": 0.061, "word": "the"},
    "steps": 1200,
    "batch": 32,
    "length": 128,
    "parameters": 1_536_128,
    "train_seconds": 3723.4,
    "seconds": 3800.0,
    "tokens_per_second": 24000.4,
    "device": "2 × cuda",
    "corpus": {"name": "a.txt", "documents": 90, "tokens": 1234567, "held_out_documents": 10, "fingerprint": "abc"},
    "settings": {"seed": 42, "mlm_probability": 0.15, "tokenizer_name": None},
    "versions": {"torch": "2.13"},
}


# baselines


def test_unigram_baseline_by_hand(tokenizer):
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    train = from_lists([[[10, 10, 10, 11], [12]], [[10, 11]]])
    held_out = from_lists([[[10, 11, 13, 10, 14]]])
    objective = get_objective("mlm", mlm_probability=1.0)  # every token is predicted
    found = unigram_baseline(train, EvaluationDataset(objective, held_out, vocabulary, length=16))
    size = vocabulary.size
    probability = {10: 5 / (7 + size), 11: 3 / (7 + size), 13: 1 / (7 + size), 14: 1 / (7 + size)}
    loss = -sum(math.log(probability[token]) for token in (10, 11, 13, 10, 14)) / 5
    assert found["loss"] == pytest.approx(loss) and found["perplexity"] == pytest.approx(math.exp(loss))
    assert found["token"] == 10 and found["accuracy"] == pytest.approx(2 / 5)


def test_baseline_answers_ends_by_their_share(causal_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(causal_tokenizer)
    train = from_lists([[[300]], [[300]], [[301]]])
    held_out = from_lists([[[300, 301]], [[301]]])  # stream: 300 301 <end> 301 <end>, all but the first predicted
    found = unigram_baseline(train, EvaluationDataset(get_objective("clm"), held_out, vocabulary, length=16))
    text = 0.5 * 2 / (vocabulary.size + 3)  # half of what is asked for is text; three tokens, one of them 301
    assert found["loss"] == pytest.approx(-(2 * math.log(text) + 2 * math.log(0.5)) / 4)
    assert found["token"] == vocabulary.eos_id and found["accuracy"] == pytest.approx(0.5)


def test_baseline_is_given_which_sentinel_it_is(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([f"<extra_id_{i}>" for i in range(20)], special_tokens=True)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    train, held_out = from_lists([[[50, 50, 51]]]), from_lists([[[50] * 24]])
    objective = get_objective("span_corruption", noise_density=0.5)
    dataset = EvaluationDataset(objective, held_out, vocabulary, length=64)
    labels = DrawCollator(objective, vocabulary)(dataset[0])["label_ids"]
    text, other = int((labels == 50).sum()), int((labels != 50).sum())
    assert len(dataset) == 1 and text == 12 and other == 5  # four sentinels and the end
    loss = -(12 * math.log(12 / 17 * 3 / (vocabulary.size + 3)) + 5 * math.log(5 / 17)) / 17
    assert unigram_baseline(train, dataset)["loss"] == pytest.approx(loss)


@pytest.mark.parametrize("weighting", ["mdlm", "llada"])
def test_baseline_weighs_tokens_as_diffusion_does(tokenizer, weighting):
    """The objective's own loss for a model whose logits are the frequencies, whatever it reads."""
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    generator = np.random.default_rng(0)
    train, held_out = (from_lists([generator.integers(20, 40, (30, 9)).tolist()]) for _ in range(2))
    dataset = EvaluationDataset(get_objective("diffusion", weighting=weighting), held_out, vocabulary, length=24)
    objective = dataset.objective
    batch = DrawCollator(objective, vocabulary)(dataset.__getitems__(list(range(len(dataset)))))
    counts = torch.bincount(torch.from_numpy(train.tokens[train.tokens >= 0]).long(), minlength=vocabulary.size) + 1
    logits = counts.double().log().expand(len(batch["label_ids"]), -1)
    expected = objective.loss({"logits": logits}, batch)[0]["diffusion"] / objective.counts(batch)["diffusion"]
    # a model may not say [MASK], which "mdlm" takes out; of 270 tokens and as many more as the vocabulary has, one
    assert unigram_baseline(train, dataset)["loss"] == pytest.approx(float(expected), rel=2e-3)


def test_baseline_scores_the_positions_of_the_evaluation(tokenizer):
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    generator = np.random.default_rng(0)
    held_out = from_lists([[generator.integers(20, 100, 50).tolist()] for _ in range(20)])
    dataset = EvaluationDataset(get_objective("mlm"), held_out, vocabulary, length=24, seed=3)
    batches = [DrawCollator(dataset.objective, vocabulary)(dataset[i])["label_ids"] for i in range(len(dataset))]
    tokens, weights = predicted_tokens(dataset)
    assert tokens.tolist() == torch.cat(batches).tolist() and np.allclose(weights, 1 / len(tokens))


def test_no_baseline_without_predicted_tokens(tokenizer):
    class Silent(type(get_objective("mlm"))):
        def corrupt(self, rows, draws, vocabulary):
            return rows

    dataset = EvaluationDataset(Silent(), from_lists([[[10, 11]]]), Vocabulary.from_tokenizer(tokenizer), length=8)
    assert unigram_baseline(from_lists([[[10]]]), dataset) is None


def test_answering_with_the_share_of_labels(tokenizer):
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    held_out = from_lists([[[10 + i, 50, 51], [20 + i, 60]] for i in range(30)])
    dataset = EvaluationDataset(get_objective("nsp"), held_out, vocabulary, length=16)
    labels = [int(DrawCollator(dataset.objective, vocabulary)(dataset[i])["pair_labels"]) for i in range(len(dataset))]
    share = labels.count(1) / len(labels)
    assert 0 < share < 1
    by_hand = sum(-math.log(share if label else 1 - share) for label in labels) / len(labels)
    assert pair_label_loss(dataset) == pytest.approx(by_hand)
    assert pair_label_loss(EvaluationDataset(get_objective("mlm"), held_out, vocabulary, length=16)) is None


# lines and tables


@pytest.mark.parametrize(
    "logs, line",
    [
        (
            {"loss": 5.25, "accuracy": 0.125, "tokens_per_second": 41234.0, "learning_rate": 1e-3, "grad_norm": 0.5},
            "step  50/400  loss 5.250  accuracy 12.5 %  41,234 tokens/s",
        ),
        (
            {"eval_loss": 5.0, "eval_perplexity": 1148.41, "eval_runtime": 1.0},
            "step  50/400  held out:  loss 5.000  perplexity 1,148.4",
        ),
        ({"loss": 9.0, "mlm_loss": 8.5, "nsp_loss": 0.5}, "step  50/400  loss 9.000  mlm loss 8.500  nsp loss 0.500"),
        ({"train_runtime": 3.0, "train_loss": 2.0}, ""),
    ],
)
def test_log_line(logs, line):
    assert log_line(logs, 50, 400) == line


@pytest.mark.parametrize(
    "seconds, text", [(8.4, "8 s"), (187.6, "3 min 8 s"), (3600, "1 h 0 min 0 s"), (59.6, "1 min 0 s")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def rendered(results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(results_table(results))
    return console.export_text()


def test_results_stand_beside_the_baseline():
    shown = rendered(RESULTS)
    for line in (
        "12.2 │                    54.6",
        "41.2 % │    6.1 % (always “the”)",
        "24,000",
        "1 h 2 min 3 s",
        "1.54 M",
    ):
        assert line in shown, shown


def test_results_without_baseline():
    shown = rendered(RESULTS | {"baseline": None, "held_out": {"loss": 9.0, "nsp_accuracy": 0.5}})
    assert "held-out nsp accuracy" in shown and "50.0 %" in shown and "always" not in shown


def test_plot(tmp_path):
    history = [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0}, {"step": 20, "eval_loss": 4.2}, {"step": 20}]
    plot_losses(history, tmp_path / "loss.png", 6.0)
    plot_losses(history[:1], tmp_path / "bare.png")
    images = [(tmp_path / name).read_bytes() for name in ("loss.png", "bare.png")]
    assert all(image[:8] == b"\x89PNG\r\n\x1a\n" for image in images) and images[0] != images[1]


def test_model_card():
    card = model_card(RESULTS, "masked_lm", "en")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["pretrain-zoo", "mlm"],
    }
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings == {"seed": 42, "mlm_probability": 0.15}
    for text in (
        "AutoModelForMaskedLM",
        "| held-out perplexity | 12.2 | 54.6 |",
        "`abc`",
        "1,234,567 tokens",
        "torch 2.13",
    ):
        assert text in body
    assert "pipeline_tag" not in model_card(RESULTS, "generator_discriminator", "de")


# what the model says


def bert(tokenizer):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertConfig(vocab_size=len(tokenizer), **sizes)


class Oracle(BertForMaskedLM):
    """Gives `answer` in every gap."""

    def forward(self, input_ids=None, **kwargs):
        out = super().forward(input_ids=input_ids, **kwargs)
        out.logits = torch.nn.functional.one_hot(torch.full_like(input_ids, self.answer), self.config.vocab_size) * 50.0
        return out


def test_words_in_gaps(tokenizer):
    documents = encode(tokenizer.backend_tokenizer, TEXTS)
    model = Oracle(bert(tokenizer))
    model.answer = tokenizer.convert_tokens_to_ids("the")
    shown = examples(model, tokenizer, documents, True, count=6, seed=1)
    assert len(shown) == 6
    for text in shown:
        before, guesses = text.plain.split("\n")
        assert before.count("____") == 1 and "[" not in before and guesses.strip().startswith("the 100%")
        right = guesses.endswith("(the)")
        (style,) = {str(span.style) for span in text.spans if text.plain[span.start : span.end] == "the 100%"}
        assert style == ("bold green" if right else "red")
    assert [t.plain for t in examples(model, tokenizer, documents, True, 6, seed=1)] == [t.plain for t in shown]


def test_gaps_are_whole_words_inside_one_sentence():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 90)  # small enough to split words: tre ##e
    documents = encode(tokenizer.backend_tokenizer, TEXTS)
    found = [pair for seed in range(10) for pair in sentences(documents, tokenizer, 100, seed)]
    assert len(found) > 80 and any("tre" in tokenizer.convert_ids_to_tokens(ids) for ids, _ in found)
    for ids, gap in found:
        text = tokenizer.decode(ids.tolist())
        assert text.count(".") == 1 and text.endswith(".")
        word = tokenizer.decode([int(ids[gap])])
        assert word.isalpha() and len(word) > 2
        following = tokenizer.convert_ids_to_tokens(int(ids[gap + 1]))
        assert not following.startswith("##")


def test_continuations(causal_tokenizer):
    documents = encode(causal_tokenizer.backend_tokenizer, TEXTS)
    config = GPT2Config(vocab_size=len(causal_tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(config)
    state = torch.get_rng_state()
    shown = examples(model, causal_tokenizer, documents, False, count=2, seed=0)
    assert len(shown) == 2 and torch.equal(torch.get_rng_state(), state)
    assert any(text.plain.startswith(("The ", "A ")) for text in shown)
    assert [t.plain for t in examples(model, causal_tokenizer, documents, False, 2, seed=0)] == [t.plain for t in shown]


def test_no_sentence_fits(tokenizer):
    documents = encode(tokenizer.backend_tokenizer, ["The cat."])
    assert examples(BertForMaskedLM(bert(tokenizer)), tokenizer, documents, True) == []
