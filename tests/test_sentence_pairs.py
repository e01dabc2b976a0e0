"""Sentence pairs: packing against a sequential loop, truncation, labels, layout, collators, models, checkpoints."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    AlbertForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertForPreTraining,
    RobertaForMaskedLM,
)

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining import HEADS_FILE
from pretrain_zoo.objectives import (
    DataCollatorForNSP,
    DataCollatorForSOP,
    ObjectiveCollator,
    Vocabulary,
    get_objective,
    keyed,
)
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.pair_plan import CUT, DOCUMENT, PAIRS, SENTENCE, SHORT, TARGET, heads, truncate_pairs
from pretrain_zoo.training.dataset import DrawCollator, PretrainingDataset

CLS, SEP, PAD, MASK = 1, 2, 0, 3
FIRST = 10  # first ordinary id


def make_vocabulary(size):
    maskable = np.arange(size) >= FIRST
    return Vocabulary(
        size=size,
        maskable=maskable,
        random_pool=np.flatnonzero(maskable),
        pad_id=PAD,
        mask_id=MASK,
        cls_id=CLS,
        sep_id=SEP,
        prefix=(CLS,),
        suffix=(SEP,),
        pair_prefix=(CLS,),
        middle=(SEP,),
        pair_suffix=(SEP,),
        token_types=True,
    )


def make_corpus(lengths):
    """Nested sentence lengths → (documents, the same as nested lists); every token has an id of its own."""
    number, nested = FIRST, []
    for document in lengths:
        nested.append([])
        for length in document:
            nested[-1].append(list(range(number, number + length)))
            number += length
    return from_lists(nested), nested, make_vocabulary(number)


def random_lengths(documents=30, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, longest, rng.integers(1, 15)).tolist() for _ in range(documents)]


def plan_of(name, documents, vocabulary, length=32, seed=3, epoch=0, **settings):
    objective = get_objective(name, **settings)
    return objective.plan(documents, vocabulary, length=length, seed=seed, epoch=epoch, global_batch=1)


def texts_of(rows):
    """(A, B, label) of each row, by token types."""
    found = []
    for ids, types, label in zip(
        rows["input_ids"].tolist(), rows["token_type_ids"].tolist(), rows["pair_labels"].tolist(), strict=True
    ):
        second = types.index(1)
        assert ids[0] == CLS and ids[second - 1] == SEP and ids[-1] == SEP
        assert types == [0] * second + [1] * (len(ids) - second)
        found.append((ids[1 : second - 1], ids[second:-1], label))
    return found


def reference_pairs(nested, room, seed, epoch, short_seq_prob, random_next):
    """create_instances_from_document of BERT, sentence by sentence, before truncation; (A, B, label, sentences)."""

    def uniform(key, position, stream):
        return float(keyed.uniform_at(key, np.array([position]), stream)[0])

    def integer(key, position, stream, high):
        return int(keyed.integers_at(key, np.array([position]), stream, high)[0])

    found = []
    for number, document in enumerate(nested):
        key = keyed.combine(seed, PAIRS, epoch, number)
        target = room
        if uniform(key, 0, SHORT) < short_seq_prob:
            target = 2 + integer(key, 0, TARGET, room - 1)
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                start = i - len(chunk) + 1
                bits = int(keyed.bits_at(key, np.array([start]), CUT)[0])
                cut = 1 + ((bits >> 32) * max(len(chunk) - 1, 1) >> 32)
                one = bool(bits & 1)
                a, b = sum(chunk[:cut], []), sum(chunk[cut:], [])
                if random_next and (one or len(chunk) == 1):
                    one = True
                    pair = keyed.combine(key, start)
                    others = [d for d in range(len(nested)) if d != number]
                    other = nested[others[integer(pair, 0, DOCUMENT, len(others))]]
                    b = []
                    for sentence in other[integer(pair, 0, SENTENCE, len(other)) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - cut
                elif one:
                    a, b = b, a
                if random_next or len(chunk) > 1:
                    found.append((a, b, int(one), len(chunk)))
                chunk = []
            i += 1
    return found


@pytest.mark.parametrize("name", ["nsp", "sop"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_plan_is_what_a_sequential_loop_gives(name, epoch):
    documents, nested, vocabulary = make_corpus(random_lengths())
    plan = plan_of(name, documents, vocabulary, epoch=epoch, short_seq_prob=0.4)
    room = 32 - 3
    expected = reference_pairs(nested, room, 3, epoch, 0.4, name == "nsp")
    found = texts_of(plan.rows(np.arange(len(plan))))
    assert len(found) == len(expected)
    truncated = 0
    for (a, b, label), (full_a, full_b, full_label, _) in zip(found, expected, strict=True):
        assert label == full_label
        if len(full_a) + len(full_b) <= room:
            assert (a, b) == (full_a, full_b)
            continue
        truncated += 1
        lengths = [len(full_a), len(full_b)]
        while sum(lengths) > room:
            lengths[0 if lengths[0] > lengths[1] else 1] -= 1
        assert [len(a), len(b)] == lengths
        assert any(full_a[i : i + len(a)] == a for i in range(len(full_a)))
        assert any(full_b[i : i + len(b)] == b for i in range(len(full_b)))
    assert truncated > 10


def test_many_blocks_give_the_same_plan(monkeypatch):
    documents, _, vocabulary = make_corpus(random_lengths(200))
    whole = plan_of("nsp", documents, vocabulary).firsts
    monkeypatch.setattr("pretrain_zoo.objectives.pair_plan._BLOCK", 7)
    assert np.array_equal(plan_of("nsp", documents, vocabulary).firsts, whole)


def test_real_pairs_are_contiguous_and_random_texts_come_from_other_documents():
    documents, nested, vocabulary = make_corpus(random_lengths(60))
    owner = {token: d for d, document in enumerate(nested) for sentence in document for token in sentence}
    plan = plan_of("nsp", documents, vocabulary, length=400)  # room for whole documents: nothing is truncated
    for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        if label == 0:
            assert b[0] == a[-1] + 1
        assert (owner[a[0]] == owner[b[0]]) == (label == 0)


def test_unswapped_pairs_are_contiguous_text_of_one_document():
    documents, nested, vocabulary = make_corpus(random_lengths(60))
    owner = {token: d for d, document in enumerate(nested) for sentence in document for token in sentence}
    plan = plan_of("sop", documents, vocabulary, length=200, short_seq_prob=0.0)
    for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
        text = b + a if label else a + b
        assert text == list(range(text[0], text[0] + len(text)))
        assert len({owner[token] for token in text}) == 1
    assert len(plan) == sum(len(document) > 1 for document in nested)  # single sentences are dropped


def test_no_sentence_is_lost():
    lengths = [[1] * n for n in np.random.default_rng(1).integers(1, 80, 50)]
    documents, nested, vocabulary = make_corpus(lengths)
    for seed in range(3):
        plan = plan_of("nsp", documents, vocabulary, length=23, seed=seed)
        used = [a if label else a + b for a, b, label in texts_of(plan.rows(np.arange(len(plan))))]
        assert sorted(sum(used, [])) == sorted(token for document in nested for (token,) in document)


def test_labels_are_even():
    documents, nested, vocabulary = make_corpus(random_lengths(800))
    sop = plan_of("sop", documents, vocabulary)
    labels = sop.rows(np.arange(len(sop)))["pair_labels"]
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(labels))
    nsp = plan_of("nsp", documents, vocabulary)
    labels = nsp.rows(np.arange(len(nsp)))["pair_labels"]
    several = np.array([n > 1 for *_, n in reference_pairs(nested, 29, 3, 0, 0.1, True)])
    assert abs(labels[several].mean() - 0.5) < 5 * 0.5 / math.sqrt(several.sum())
    assert (labels[~several] == 1).all() and labels.mean() > 0.5


def test_target_lengths_are_drawn_per_document():
    room, count = 29, 4000
    documents, _, vocabulary = make_corpus([[1] * 60] * count)
    plan = plan_of("sop", documents, vocabulary, short_seq_prob=0.25)
    rows = plan.rows(np.arange(len(plan)))
    document = (np.array([ids[1] for ids in rows["input_ids"].tolist()]) - FIRST) // 60
    length = rows["input_ids"].lengths - 3
    drawn = []
    for d in range(count):
        own = length[document == d]
        assert len(set(own[:-1])) == 1  # all but what is left at the end have the same length
        drawn.append(own[0])
    drawn = np.array(drawn)
    expected = np.full(room - 1, 0.25 / (room - 1))  # 2 … room, and the full length for all others
    expected[-1] += 0.75
    observed = np.bincount(drawn, minlength=room + 1)[2:]
    assert observed.sum() == count
    assert (np.abs(observed - count * expected) < 5 * np.sqrt(count * expected * (1 - expected))).all()


def test_cuts_are_uniform():
    documents, _, vocabulary = make_corpus([[1] * 10] * 6000)
    plan = plan_of("sop", documents, vocabulary, length=13, short_seq_prob=0.0)
    cuts = np.array([len(b) if label else len(a) for a, b, label in texts_of(plan.rows(np.arange(len(plan))))])
    observed = np.bincount(cuts, minlength=10)[1:]
    assert len(observed) == 9 and (np.abs(observed - 6000 / 9) < 5 * math.sqrt(6000 / 9)).all()


def test_random_documents_and_sentences_are_uniform():
    documents, nested, vocabulary = make_corpus([[1, 1, 1, 1]] * 5)
    seen = np.zeros((5, 5, 4))
    for epoch in range(400):
        plan = plan_of("nsp", documents, vocabulary, length=6, epoch=epoch, short_seq_prob=0.0)
        for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
            if label:
                seen[(a[0] - FIRST) // 4, (b[0] - FIRST) // 4, (b[0] - FIRST) % 4] += 1
    assert (np.diagonal(seen) == 0).all()
    for d in range(5):
        others = np.delete(seen[d], d, axis=0)
        expected = others.sum() / 16
        assert (np.abs(others - expected) < 5 * math.sqrt(expected)).all()


def test_truncation_is_that_of_one_token_at_a_time():
    rng = np.random.default_rng(0)
    trials, room = 40_000, 10
    a_length, b_length = 9, 12
    key = keyed.combine(5, np.arange(trials))
    zero = np.zeros(trials, np.int64)
    a0, a1, b0, b1 = truncate_pairs(key, zero, zero + a_length, zero + 100, zero + 100 + b_length, room)
    reference = []
    for _ in range(trials):
        a, b = [0, a_length], [100, 100 + b_length]
        while a[1] - a[0] + b[1] - b[0] > room:
            longer = a if a[1] - a[0] > b[1] - b[0] else b
            if rng.random() < 0.5:
                longer[0] += 1
            else:
                longer[1] -= 1
        reference.append((*a, *b))
    reference = np.array(reference)
    assert (a1 - a0 == (reference[:, 1] - reference[:, 0])[0]).all()
    assert (b1 - b0 == (reference[:, 3] - reference[:, 2])[0]).all()
    for ours, theirs in ((a0, reference[:, 0]), (b0, reference[:, 2])):
        size = max(ours.max(), theirs.max()) + 1
        mine, other = np.bincount(ours, minlength=size), np.bincount(theirs, minlength=size)
        assert (np.abs(mine - other) < 5 * np.sqrt(mine + other + 1)).all()
    independent = np.corrcoef(a0, b0)[0, 1]
    assert abs(independent) < 5 / math.sqrt(trials)


@pytest.mark.parametrize("tosses", [0, 1, 63, 64, 65, 200])
def test_heads_are_binomial(tosses):
    count = 20_000
    found = heads(keyed.combine(1, np.arange(count)), np.full(count, tosses), 7)
    assert found.min() >= 0 and found.max() <= tosses
    assert abs(found.mean() - tosses / 2) <= 5 * math.sqrt(tosses / 4 / count)
    assert found.var() == pytest.approx(tosses / 4, rel=0.1)


def test_pairs_depend_on_seed_and_epoch_but_not_on_the_batch():
    documents, _, vocabulary = make_corpus(random_lengths(60))
    plan, again = (plan_of("nsp", documents, vocabulary) for _ in range(2))
    rows = plan.rows(np.arange(len(plan)))
    assert texts_of(rows) == texts_of(again.rows(np.arange(len(again))))
    shuffled = np.random.default_rng(0).permutation(len(plan))
    assert texts_of(again.rows(shuffled)) == [texts_of(rows)[i] for i in shuffled]
    for other in (plan_of("nsp", documents, vocabulary, epoch=1), plan_of("nsp", documents, vocabulary, seed=4)):
        assert texts_of(rows) != texts_of(other.rows(np.arange(len(other))))


def test_a_run_takes_every_pair_of_each_epoch_once():
    documents, _, vocabulary = make_corpus(random_lengths(40))
    plans = [plan_of("nsp", documents, vocabulary, epoch=e) for e in range(2)]
    total = sum(map(len, plans))
    data = PretrainingDataset(
        get_objective("nsp"), documents, vocabulary, length=32, global_batch=total, max_steps=1, seed=3
    )
    rows = data.__getitems__(list(range(total))).rows
    expected = [pair for plan in plans for pair in texts_of(plan.rows(np.arange(len(plan))))]
    assert sorted(texts_of(rows)) == sorted(expected)


def test_empty_documents_are_passed_over():
    documents = from_lists([[], [[10, 11], [12]], [], [[13], [14, 15]], []])
    plan = plan_of("nsp", documents, make_vocabulary(16), length=16, short_seq_prob=0.0)
    for a, b, _ in texts_of(plan.rows(np.arange(len(plan)))):
        assert a and b and min(a + b) >= FIRST


def test_layout_follows_the_tokenizer(byte_bpe_tokenizer, wordpiece_tokenizer):
    for tokenizer in (byte_bpe_tokenizer, wordpiece_tokenizer):
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        first, second = "the miller mends", " his umbrella"
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second))
        plan = plan_of("sop", from_lists([[a, b]]), vocabulary, length=64, seed=0, short_seq_prob=0.0)
        rows = plan.rows(np.arange(1))
        texts = (second, first) if rows["pair_labels"][0] else (first, second)
        expected = tokenizer(*texts)
        assert rows["input_ids"].tolist() == [expected["input_ids"]]
        assert ("token_type_ids" in rows) == ("token_type_ids" in expected)
        if "token_type_ids" in rows:
            assert rows["token_type_ids"].tolist() == [expected["token_type_ids"]]


def test_word_starts_come_with_the_pairs():
    documents, _, vocabulary = make_corpus(random_lengths(60))
    starts = np.random.default_rng(0).random(len(documents.tokens)) < 0.6
    expected = dict(zip(documents.tokens.tolist(), starts.tolist(), strict=True)) | {CLS: True, SEP: True}
    plan = get_objective("ngram_mlm+sop").plan(
        replace(documents, word_starts=starts), vocabulary, length=48, seed=0, epoch=0, global_batch=1
    )
    rows = plan.rows(np.arange(len(plan)))
    assert rows["word_starts"].values.tolist() == [expected[token] for token in rows["input_ids"].values.tolist()]


def test_what_cannot_work_is_refused():
    documents, _, vocabulary = make_corpus([[3, 4, 5]])
    with pytest.raises(ValueError, match="held-out part, has 1; separate documents"):
        plan_of("nsp", documents, vocabulary)
    assert len(plan_of("sop", documents, vocabulary))
    with pytest.raises(ValueError, match="no room for two texts"):
        plan_of("sop", documents, vocabulary, length=4)
    with pytest.raises(ValueError, match="short_seq_prob"):
        get_objective("nsp", short_seq_prob=1.5)
    bare = Vocabulary(size=20, maskable=vocabulary.maskable, random_pool=vocabulary.random_pool, pad_id=0)
    with pytest.raises(ValueError, match="no special token before a pair"):
        get_objective("nsp").check(bare)


# collators


def sentence_features(texts, tokenizer, count=12):
    lines = [[s.strip() + "." for s in text.split(".") if s.strip()] for text in texts]
    return [
        {"sentences": [tokenizer(s, add_special_tokens=False)["input_ids"] for s in found]}
        for found in lines
        if len(found) > 2
    ][:count]


def test_nsp_collator_feeds_the_stock_model(texts, wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer, max_length=64, seed=0)
    batch = collator(sentence_features(texts, wordpiece_tokenizer))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"}
    assert batch["input_ids"].shape[1] <= 64 and set(batch["next_sentence_label"].tolist()) == {0, 1}
    parts = backbone("bert-tiny", wordpiece_tokenizer)
    torch.manual_seed(0)
    model = parts.load(BertForPreTraining).eval()
    output = model(**batch)
    expected = torch.nn.functional.cross_entropy(output.prediction_logits.flatten(0, 1), batch["labels"].flatten())
    expected += torch.nn.functional.cross_entropy(output.seq_relationship_logits, batch["next_sentence_label"])
    assert torch.isclose(output.loss, expected)
    assert not torch.equal(
        collator(sentence_features(texts, wordpiece_tokenizer))["input_ids"][:4, :30], batch["input_ids"][:4, :30]
    )


def test_sop_collator_takes_text_or_ids_and_feeds_the_stock_model(texts, unigram_tokenizer):
    sentences = [["one river", "two winters ago", "the clock"], ["a letter", "nothing more"]]
    ids = [{"sentences": [unigram_tokenizer(s, add_special_tokens=False)["input_ids"] for s in d]} for d in sentences]
    as_text = [{"sentences": d} for d in sentences]
    lines = [{"text": "\n".join(d)} for d in sentences]
    batches = [DataCollatorForSOP(unigram_tokenizer, max_length=40, seed=1)(f) for f in (ids, as_text, lines)]
    assert "sentence_order_label" in batches[0]
    for other in batches[1:]:
        assert all(torch.equal(batches[0][name], other[name]) for name in batches[0])
    torch.manual_seed(0)
    model = backbone("albert-tiny", unigram_tokenizer).load(AlbertForPreTraining)
    assert torch.isfinite(model(**batches[0]).loss)


def test_collator_alone_makes_only_pairs_if_asked(texts, wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer, objective="nsp", max_length=64)
    batch = collator(sentence_features(texts, wordpiece_tokenizer))
    assert "labels" not in batch and "next_sentence_label" in batch


def test_collator_refuses_what_it_cannot_pair(wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer)
    with pytest.raises(ValueError, match="'sentences'.*or 'text'"):
        collator([{"input_ids": [5, 6]}])
    with pytest.raises(ValueError, match="the corpus, or its held-out part, has 1"):
        collator([{"sentences": [[20, 21], [22]]}])
    with pytest.raises(ValueError, match="the sentences hold others"):
        collator([{"sentences": [[20, 2100]]}, {"sentences": [[22]]}])
    with pytest.raises(ValueError, match="give no pair"):
        DataCollatorForSOP(wordpiece_tokenizer)([{"sentences": [[22]]}])


def test_ready_made_pairs_go_through_the_ordinary_collator(wordpiece_tokenizer):
    features = [dict(wordpiece_tokenizer("the clock", "his umbrella"), next_sentence_label=i) for i in (0, 1)]
    batch = ObjectiveCollator("mlm+nsp", wordpiece_tokenizer)(features)
    assert batch["next_sentence_label"].tolist() == [0, 1] and "labels" in batch
    for feature in features:
        del feature["next_sentence_label"]
    with pytest.raises(ValueError, match="pair_labels"):
        ObjectiveCollator("mlm+nsp", wordpiece_tokenizer)(features)


# models


def fixed_batch(objective, documents, vocabulary, rows=16, length=48):
    data = PretrainingDataset(objective, documents, vocabulary, length=length, global_batch=rows, max_steps=1)
    return DrawCollator(objective, vocabulary)(data.__getitems__(list(range(rows))))


def means(objective, output, batch):
    counts = objective.counts(batch)
    return {name: output.sums[name] / counts[name] for name in objective.terms}


@pytest.mark.parametrize(
    "name, preset, main",
    [
        ("mlm+nsp", "bert-tiny", BertForPreTraining),
        ("mlm+sop", "albert-tiny", AlbertForPreTraining),
        ("mlm+nsp", "roberta-tiny", RobertaForMaskedLM),
        ("nsp", "bert-tiny", BertForPreTraining),
    ],
)
def test_training_lowers_every_loss_on_a_fixed_batch(name, preset, main, documents, wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective(name)
    torch.manual_seed(0)
    model = objective.build(backbone(preset, wordpiece_tokenizer, hidden_dropout_prob=0.0), vocabulary)
    assert type(model.main) is main
    batch = fixed_batch(objective, documents, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = means(objective, model(**batch), batch)
    for _ in range(30):
        losses = means(objective, model(**batch), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    last = means(objective, model(**batch), batch)
    assert all(last[term] < first[term] - 0.05 for term in objective.terms), (first, last)


def test_weights_in_half_precision(documents, byte_bpe_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(byte_bpe_tokenizer)
    objective = get_objective("mlm+nsp")
    parts = replace(backbone("roberta-tiny", byte_bpe_tokenizer), dtype=torch.bfloat16)
    sums = objective.build(parts, vocabulary)(**fixed_batch(objective, documents, vocabulary)).sums
    assert all(torch.isfinite(value) for value in sums.values())


def test_loss_is_that_of_the_stock_model(documents, wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective("mlm+nsp")
    torch.manual_seed(0)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary).eval()
    batch = fixed_batch(objective, documents, vocabulary)
    labels = torch.full(batch["input_ids"].shape, -100)
    labels.view(-1)[batch["label_positions"]] = batch["label_ids"]
    plain = {k: batch[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
    stock = model.main(**plain, labels=labels, next_sentence_label=batch["pair_labels"])
    output = model(**batch)
    assert torch.isclose(sum(means(objective, output, batch).values()), stock.loss)
    correct, count = output.metrics["nsp_accuracy"]
    assert count == len(labels)
    assert correct == (stock.seq_relationship_logits.argmax(-1) == batch["pair_labels"]).sum()


def test_export_is_a_stock_checkpoint_with_both_heads(documents, wordpiece_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective("mlm+nsp")
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary).eval()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / HEADS_FILE).exists()
    batch = fixed_batch(objective, documents, vocabulary)
    inputs = {k: batch[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
    for auto in (BertForPreTraining, AutoModelForPreTraining):
        plain, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(plain) is BertForPreTraining
        assert not report["missing_keys"] and not report["unexpected_keys"]
        expected = model.main(**inputs)
        found = plain.eval()(**inputs)
        assert torch.equal(found.prediction_logits, expected.prediction_logits)
        assert torch.equal(found.seq_relationship_logits, expected.seq_relationship_logits)
    plain, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]


def test_a_checkpoint_keeps_both_trained_heads(wordpiece_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    torch.manual_seed(0)
    trained = backbone("bert-tiny", wordpiece_tokenizer).load(BertForPreTraining)
    with torch.no_grad():
        for parameter in trained.cls.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trained.save_pretrained(tmp_path)
    parts = backbone(str(tmp_path), wordpiece_tokenizer)
    for name in ("mlm+nsp", "mlm+sop", "nsp"):
        model = get_objective(name).build(parts, vocabulary)
        for key, value in trained.state_dict().items():
            assert torch.equal(model.main.state_dict()[key], value), key


def test_our_head_is_saved_beside_the_model_and_goes_on(documents, byte_bpe_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(byte_bpe_tokenizer)
    objective = get_objective("mlm+nsp")
    parts = backbone("roberta-tiny", byte_bpe_tokenizer)
    model = objective.build(parts, vocabulary).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / HEADS_FILE).exists()
    plain, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name in ("mlm+nsp", "sop"):
        again = get_objective(name).build(backbone(str(tmp_path), byte_bpe_tokenizer), vocabulary)
        for key, value in model.heads.state_dict().items():
            assert torch.equal(again.heads.state_dict()[key], value)
    fresh = objective.build(parts, vocabulary)
    fresh.load_checkpoint(tmp_path)
    assert torch.equal(fresh.heads["pair"].classifier.weight, model.heads["pair"].classifier.weight)


def test_static_noise_is_refused_where_pairs_are_drawn_anew(wordpiece_tokenizer):
    from pretrain_zoo.objectives import DataCollatorForNSP, ObjectiveCollator

    with pytest.raises(ValueError, match="dupe_factor"):
        DataCollatorForNSP(wordpiece_tokenizer, dupe_factor=10)
    collator = ObjectiveCollator("mlm+nsp", wordpiece_tokenizer, dupe_factor=10)
    pair = wordpiece_tokenizer("the miller", "an old sailor")
    with pytest.raises(ValueError, match="dupe_factor"):
        collator([{**pair, "next_sentence_label": 0}])
