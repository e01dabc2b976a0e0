"""Question answering: reading SQuAD's layout, windows, spans, the official metrics and the command."""

import gzip
import itertools
import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering

from pretrain_zoo.evaluation.squad import WindowCollator, WindowDataset, check_tokenizer, make_windows
from pretrain_zoo.evaluation.squad_answers import best_answers, best_spans
from pretrain_zoo.evaluation.squad_data import Question, from_rows, read_squad, split_by_article
from pretrain_zoo.evaluation.squad_metrics import (
    METRICS,
    best_thresholds,
    normalize_answer,
    normalize_korean_answer,
    squad_scores,
)
from pretrain_zoo.evaluation.squad_run import SquadArguments
from pretrain_zoo.evaluation.squad_trainer import SquadTrainer
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.scripts.run_squad import main

# metrics, against hand-worked cases


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The U.S. Army", "us army"),
        ("an  Apple\tand a\u00a0pear", "apple and pear"),
        ("Theatre, the theatre", "theatre theatre"),  # only whole words are articles
        ("a-b", "ab"),  # punctuation goes first, so this is no article
        ("«Ça» 3,000 €", "«ça» 3000 €"),  # ASCII punctuation only
        ("the", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalize_answer(text) == expected


def test_korean_normal_form():
    assert normalize_korean_answer("《노인과 바다》(1952), A") == "노인과 바다 1952 a"


@pytest.mark.parametrize(
    "prediction, gold, exact, f1",
    [
        ("the Broncos", "Broncos", 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 / 3),  # precision 1/2, recall 1
        ("red red blue", "red blue blue", 0, 2 / 3),  # two of three in common, each as often as it occurs
        ("", "Broncos", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),
    ],
)
def test_exact_match_and_f1(prediction, gold, exact, f1):
    metric = METRICS["squad"]
    assert metric.exact_match(prediction, gold) == exact
    assert metric.f1(prediction, gold) == pytest.approx(f1)


def test_korquad_counts_characters():
    # ㄱ: 1989년 against 1989년에 → five common of 5 and 6 characters
    assert METRICS["korquad"].f1("1989년", "1989 년에") == pytest.approx(2 * 5 / 11)
    assert METRICS["squad"].f1("1989년", "1989 년에") == 0


def test_scores_take_the_best_gold_and_split_by_answerability():
    references = {"a": ["the red house", "house"], "b": [], "c": ["x y"], "d": []}
    predictions = {"a": "House", "b": "", "c": "x", "d": "something"}
    report = squad_scores(predictions, references)
    assert report["exact"] == pytest.approx(50) and report["total"] == 4
    assert report["f1"] == pytest.approx(100 * (1 + 1 + 2 / 3 + 0) / 4)
    assert (report["HasAns_exact"], report["HasAns_total"]) == (50, 2)
    assert report["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert (report["NoAns_exact"], report["NoAns_f1"], report["NoAns_total"]) == (50, 50, 2)
    assert set(squad_scores({"a": "house"}, {"a": ["house"]})) == {"exact", "f1", "total"}


def test_scores_refuse_missing_predictions():
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction, the first is b"):
        squad_scores({"a": ""}, {"a": [], "b": []})
    with pytest.raises(ValueError, match="no questions"):
        squad_scores({}, {})


def test_best_threshold_is_the_best_of_all_decisions():
    """Against trying each threshold, ties among the differences included."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = [str(i) for i in range(12)]
        references = {name: [["x"], ["x y"], []][rng.integers(3)] for name in names}
        answers = {name: ["x", "y", "x y"][rng.integers(3)] for name in names}
        differences = {name: float(rng.integers(-3, 4)) for name in names}
        found = best_thresholds(answers, differences, references)

        def score(threshold, key, answers=answers, differences=differences, references=references):
            decided = {n: "" if differences[n] > threshold else answers[n] for n in answers}
            return squad_scores(decided, references)[key]

        for key in ("exact", "f1"):
            best = max(score(threshold, key) for threshold in [-4, *range(-3, 4)])
            assert found[f"best_{key}"] == pytest.approx(best)
            assert score(found[f"best_{key}_thresh"], key) == pytest.approx(best)


def test_evaluate_loads_the_metric_by_path(tmp_path, monkeypatch):
    import evaluate

    import pretrain_zoo.evaluation.squad_metric as module

    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    metric = evaluate.load(module.__file__, cache_dir=str(tmp_path))
    result = metric.compute(
        predictions=[{"id": "1", "prediction_text": "Denver Broncos"}],
        references=[{"id": "1", "answers": {"text": ["The Broncos"], "answer_start": [0]}}],
    )
    assert result["exact"] == 0 and result["f1"] == pytest.approx(100 * 2 / 3)


# data

CONTEXT = "The miller mends the well-known clock in winter. Nobody forgot the ship's bell."


def layout(context=CONTEXT, answers=(("clock", 32),), **more):
    qa = {"id": "q1", "question": "What does the miller mend?"} | more
    qa["answers"] = [{"text": text, "answer_start": start} for text, start in answers]
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": [qa]}]}]}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_reading_the_official_layout(tmp_path):
    content = layout(answers=[("clock", 32), ("the well-known clock", 17)])
    content["data"][0]["paragraphs"][0]["qas"].append(
        {"id": "q2", "question": "Who sings?", "answers": [], "is_impossible": True, "plausible_answers": [1]}
    )
    path = tmp_path / "dev.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    first, second = read_squad(path)
    assert first == Question(
        "q1", "What does the miller mend?", CONTEXT, ("clock", "the well-known clock"), (32, 17), "T"
    )
    assert second.answers == () and second.context == CONTEXT


def test_rows_of_the_hub():
    row = {"id": "7", "title": "T", "context": "Ein Café.", "question": "Was?"}
    rows = [row | {"answers": {"text": ["Café"], "answer_start": [4]}}]
    assert from_rows(rows, "hub") == [Question("7", "Was?", "Ein Café.", ("Café",), (4,), "T")]
    with pytest.raises(ValueError, match="hub has no column context, answers; it has id, question"):
        from_rows([{"id": "1", "question": "?"}], "hub")
    with pytest.raises(ValueError, match="lists under text and answer_start"):
        from_rows([row | {"answers": ["Café"]}], "hub")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"data": []}, "holds no questions"),
        ({"rows": []}, "has no 'data'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\].paragraphs\[0\] has no 'context'"),
        (layout(question=None), r"qas\[0\]: 'question' must be of type str"),
        (layout(answers=[("clock", 31)]), "1 answers do not stand at their answer_start.*'clock', and at 31 stands"),
        (layout(answers=[("clock", -40)]), "do not stand at their answer_start"),
        (layout(context="  ", answers=[]), "empty question or context"),
    ],
)
def test_bad_data_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_squad(write(tmp_path / "dev.json", content))


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "dev.json", layout())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="damaged or no JSON"):
        read_squad(path)
    packed = tmp_path / "dev.json.xz"
    packed.write_bytes(b"\xfd7zXZ\x00 no")
    with pytest.raises(ValueError, match="damaged or no JSON"):
        read_squad(packed)
    double = layout()
    double["data"] *= 2
    with pytest.raises(ValueError, match="the id q1 occurs twice"):
        read_squad(write(tmp_path / "double.json", double))
    with pytest.raises(ValueError, match=r"end in \.json"):
        read_squad(tmp_path / "dev.txt")
    with pytest.raises(ValueError, match=r"there is no file .*none\.json"):
        read_squad(tmp_path / "none.json")


def test_articles_are_not_divided():
    questions = [Question(f"{i}", "?", "c", (), (), f"title {i % 10}") for i in range(100)]
    train, held_out = split_by_article(questions, 0.2, 0, "data")
    assert len(held_out) == 20 and not {q.title for q in train} & {q.title for q in held_out}
    assert held_out != split_by_article(questions, 0.2, 1, "data")[1]
    with pytest.raises(ValueError, match="one article only"):
        split_by_article(questions[:1], 0.2, 0, "data")


# windows


def paragraph(words, seed=0):
    """A text of the words of the shared corpus, and where each begins."""
    rng = np.random.default_rng(seed)
    known = "the miller mends a clock by river sailor carried forgot 42 barrels of flour bell".split()  # noqa: SIM905
    chosen = [known[i] for i in rng.integers(len(known), size=words)]
    starts = np.cumsum([0, *[len(word) + 1 for word in chosen]])[:-1]
    return " ".join(chosen), chosen, starts


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "unigram"])
def test_windows_cover_the_paragraph_and_find_the_answer(kind, left, request):
    """Every character is in a window; a window has the answer's tokens if and only if the whole answer is there."""
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    questions = []
    for i in range(8):
        text, words, starts = paragraph(60 + i, i)
        a, b = 5 * i + 3, 5 * i + 3 + i % 3
        answer = text[starts[a] : starts[b] + len(words[b])]
        questions.append(Question(str(i), "Who  mends the clock?", text, (answer,), (int(starts[a]),)))
    questions.append(Question("none", "Who?", "the miller", (), ()))
    side = tokenizer.padding_side
    tokenizer.padding_side = "left" if left else "right"
    try:
        windows = make_windows(questions, tokenizer, max_seq_length=48, doc_stride=10, max_query_length=20)
    finally:
        tokenizer.padding_side = side
    assert windows.lengths.max() <= 48 and len(windows) > 2 * len(questions)
    covered = [np.zeros(len(q.context), bool) for q in questions]
    held = np.zeros(len(questions), int)
    for row, (begin, end) in enumerate(itertools.pairwise(windows.splits)):
        question = questions[windows.question[row]]
        ids, first, last = windows.ids[begin:end], windows.begin[begin:end], windows.end[begin:end]
        for i, j in zip(first, last):
            if i >= 0:
                covered[windows.question[row]][i:j] = True
        assert ids[windows.cls[row]] == tokenizer.cls_token_id
        start, stop = windows.start_positions[row], windows.end_positions[row]
        low, high = first[first >= 0].min(), last.max()
        whole = question.answers and low <= question.starts[0] and question.starts[0] + len(question.answers[0]) <= high
        if whole:
            assert question.context[first[start] : last[stop]].strip() == question.answers[0]
            held[windows.question[row]] += 1
        else:
            assert start == stop == windows.cls[row]
    assert (held[:-1] >= 1).all() and held[-1] == 0
    for question, seen in zip(questions, covered):
        assert all(seen[i] for i, c in enumerate(question.context) if c != " ")


def test_an_answer_inside_a_word_takes_the_whole_token(wordpiece_tokenizer):
    text = "In winter the miller mends 42,000 clocks."
    windows = make_windows(
        [Question("a", "How many?", text, ("2,0",), (text.index("2,0"),))],
        wordpiece_tokenizer,
        max_seq_length=64,
        doc_stride=8,
        max_query_length=16,
    )
    start, stop = windows.start_positions[0], windows.end_positions[0]
    found = text[windows.begin[start] : windows.end[stop]]
    assert "2,0" in found and windows.cls[0] < start <= stop
    assert "2,0" not in text[windows.end[start] : windows.end[stop]]  # no token fewer would do
    assert "2,0" not in text[windows.begin[start] : windows.begin[stop]]


def test_long_questions_are_cut(wordpiece_tokenizer):
    text, words, starts = paragraph(50)
    long = Question("a", "Who mends the clock by the river? " * 30, text, (words[40],), (int(starts[40]),))
    windows = make_windows([long], wordpiece_tokenizer, max_seq_length=48, doc_stride=8, max_query_length=12)
    assert (windows.begin >= 0).sum() > 0 and windows.start_positions.max() > 12
    inside = windows.padded(windows.begin, slice(0, 1), 48)[0]
    assert (inside[1:13] == -1).all() and inside[14] == 0  # [CLS], twelve tokens, [SEP], the paragraph


def test_windows_that_cannot_be_are_refused(wordpiece_tokenizer, bpe_tokenizer):
    question = [Question("a", "Who?", "the miller", (), ())]
    with pytest.raises(ValueError, match="raise --max_seq_length"):
        make_windows(question, wordpiece_tokenizer, max_seq_length=100, doc_stride=40, max_query_length=60)
    with pytest.raises(ValueError, match="has no cls token"):
        make_windows(question, bpe_tokenizer)
    slow = type("SlowTokenizer", (), {"is_fast": False})()
    with pytest.raises(ValueError, match="slow tokenizer"):
        check_tokenizer(slow)


def test_collator_pads_on_the_right(wordpiece_tokenizer):
    questions = [Question(str(i), "Who?", paragraph(n, i)[0], (), ()) for i, n in enumerate((5, 30))]
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=64, doc_stride=8, max_query_length=16)
    dataset = WindowDataset(windows)
    batch = WindowCollator(wordpiece_tokenizer.pad_token_id, 0, True, 8)([dataset[i] for i in range(len(dataset))])
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["attention_mask"].sum(1).tolist() == windows.lengths.tolist()
    encoded = wordpiece_tokenizer("Who?", questions[0].context)
    count = len(encoded["input_ids"])
    assert batch["input_ids"][0, :count].tolist() == encoded["input_ids"]
    assert batch["token_type_ids"][0, :count].tolist() == encoded["token_type_ids"]
    assert (batch["input_ids"][0, count:] == wordpiece_tokenizer.pad_token_id).all()
    assert batch["labels"].tolist() == [[0, 0]] * len(dataset)


# spans


def test_best_spans_are_those_of_all_spans():
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(2, 5, 14))
    allowed = rng.random((5, 14)) < 0.7
    scores, first, last = best_spans(start, end, allowed, 9, 4)
    for row in range(5):
        every = [
            (start[row, i] + end[row, j], i, j)
            for i in range(14)
            for j in range(i, min(i + 4, 14))
            if allowed[row, i] and allowed[row, j]
        ]
        expected = sorted(every, reverse=True)[:9]
        found = list(zip(scores[row], first[row], last[row]))
        assert [(i, j) for _, i, j in found] == [(i, j) for _, i, j in expected]
        assert np.allclose(scores[row], [score for score, _, _ in expected])


def test_best_spans_of_short_rows():
    scores, _, _ = best_spans(np.zeros((1, 3)), np.zeros((1, 3)), np.array([[False, True, False]]), 20, 30)
    assert np.isfinite(scores).sum() == 1


def make_answers(tokenizer, threshold_boost=0.0):
    text, words, starts = paragraph(80, 3)
    answer = text[starts[50] : starts[52] + len(words[52])]
    questions = [Question("a", "Who?", text, (answer,), (int(starts[50]),)), Question("b", "Who?", "the bell", (), ())]
    windows = make_windows(questions, tokenizer, max_seq_length=40, doc_stride=12, max_query_length=16)
    start, end = np.full((2, len(windows), 64), -5.0)
    width = np.arange(64) >= windows.lengths[:, None]
    start[width] = end[width] = 100.0  # padding must not count
    rows = np.arange(len(windows))
    start[rows, windows.start_positions] = 3.0
    end[rows, windows.end_positions] = 3.0
    start[rows, windows.cls] += threshold_boost
    return questions, windows, start, end


def test_answers_come_from_the_window_that_holds_them(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    holding = windows.start_positions != windows.cls
    assert 1 <= holding[windows.question == 0].sum() < (windows.question == 0).sum()
    first, second = best_answers(start, end, windows, questions)
    assert first.text == questions[0].answers[0]
    # no answer scores −10 in the window that holds the answer, 6 in the others: the smallest counts
    assert first.score_difference == pytest.approx(-10 - 6)
    assert first.decide(0.0) == first.text and first.decide(-17) == ""
    assert second.score_difference == pytest.approx(6 + 10)
    assert second.decide(0.0) == "" and second.decide(16.0) == second.text != ""
    texts = [entry["text"] for entry in first.n_best]
    assert len(texts) == 20 and texts[0] == first.text
    total = sum(math.exp(entry["score"]) for entry in first.n_best) + math.exp(-10)
    for entry in first.n_best:
        assert entry["probability"] == pytest.approx(math.exp(entry["score"]) / total)
        assert entry["score"] == pytest.approx(entry["start_logit"] + entry["end_logit"])


def test_answers_are_limited_in_length(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    single = {q.context[i:j] for q in questions for i, j in zip(windows.begin, windows.end) if 0 <= i < j}
    for answer in best_answers(start, end, windows, questions, max_answer_length=1, n_best_size=3):
        assert 1 <= len(answer.n_best) <= 3
        assert {entry["text"] for entry in answer.n_best} <= single


def test_scores_that_do_not_fit_are_refused(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    with pytest.raises(ValueError, match="do not fit"):
        best_answers(start[:1], end[:1], windows, questions)
    start[0, windows.cls[0]] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        best_answers(start, end, windows, questions)


# training and the command

ANIMALS = ("miller", "sailor", "baker", "sister")


def learnable(count, silent=False, seed=0):
    """Paragraphs of one fact each; the question names who, the answer is where."""
    rng = np.random.default_rng(seed)
    places = ("river", "town", "hill", "road", "house", "field")
    articles = []
    for i in range(count):
        who, place = ANIMALS[rng.integers(4)], places[rng.integers(6)]
        text = f"In winter the {who} is at the {place} at home. Nobody forgot the bell."
        asked = "sailor" if who != "sailor" and silent and i % 3 == 0 else who
        answers = [] if asked != who else [{"text": place, "answer_start": text.index(place)}]
        qa = {"id": f"q{i}", "question": f"Where is the {asked}?", "answers": answers, "is_impossible": not answers}
        articles.append({"title": f"t{i % 5}", "paragraphs": [{"context": text, "qas": [qa]}]})
    return {"version": "v2.0", "data": articles}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, wordpiece_tokenizer):
    """A small BERT as pretraining leaves it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    backbone("bert-tiny", wordpiece_tokenizer, **small).load(AutoModelForMaskedLM).save_pretrained(folder)
    wordpiece_tokenizer.save_pretrained(folder)
    return folder


SHORT = "--max_seq_length 64 --doc_stride 8 --max_query_length 20 --max_answer_length 6 --use_cpu --eval_strategy no"


def test_loss_does_not_depend_on_accumulation(checkpoint, wordpiece_tokenizer, tmp_path):
    """A step of SGD in any division is the step along the mean of the stock model's loss of each window alone."""
    questions = from_rows(rows_of(learnable(11, silent=True)), "data")
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=128, doc_stride=8, max_query_length=20)
    assert len(windows) == 11 and len(set(windows.lengths.tolist())) > 1
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    steps = {}
    for batch, accumulation in ((11, 1), (4, 3), (1, 11)):
        torch.manual_seed(1)
        model = backbone(str(checkpoint), wordpiece_tokenizer, **off).load(AutoModelForQuestionAnswering).double()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        dataset = WindowDataset(windows)
        if not steps:
            loss = 0.0
            for i in range(len(dataset)):  # alone, so that there is no padding
                row = WindowCollator(wordpiece_tokenizer.pad_token_id)([dataset[i]])
                start, end = row.pop("labels").T
                loss = loss + model(**row, start_positions=start, end_positions=end).loss / len(dataset)
            loss.backward()
            expected = {name: before[name] - 0.01 * p.grad for name, p in model.named_parameters()}
            model.zero_grad()
        args = SquadArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            max_steps=1, learning_rate=0.01, optim="sgd", max_grad_norm=0.0, warmup_steps=0, weight_decay=0.0,
            lr_scheduler_type="constant", eval_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = SquadTrainer(
            model=model, args=args, train_dataset=dataset, eval_dataset=dataset,
            data_collator=WindowCollator(wordpiece_tokenizer.pad_token_id), score=lambda *_: {},
        )  # fmt: skip
        logged = trainer.train().training_loss
        assert logged == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in trainer.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-9)
        steps[batch] = logged


def rows_of(content):
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = {key: [a[key] for a in qa["answers"]] for key in ("text", "answer_start")}
                yield {"id": qa["id"], "question": qa["question"], "context": paragraph["context"], "answers": answers}


def test_evaluation_gives_the_scores_of_single_windows(checkpoint, wordpiece_tokenizer, tmp_path):
    text, _, _ = paragraph(90, 5)
    questions = [Question("a", "Who?", text, (), ()), Question("b", "Who?", "the bell", (), ())]
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=40, doc_stride=8, max_query_length=20)
    torch.manual_seed(0)
    model = backbone(str(checkpoint), wordpiece_tokenizer).load(AutoModelForQuestionAnswering).eval()
    dataset = WindowDataset(windows)
    args = SquadArguments(output_dir=str(tmp_path), per_device_eval_batch_size=3, use_cpu=True, disable_tqdm=True)
    trainer = SquadTrainer(model=model, args=args, eval_dataset=dataset, score=lambda *_: {},
                           data_collator=WindowCollator(wordpiece_tokenizer.pad_token_id))  # fmt: skip
    start, end = trainer.predict(dataset).predictions
    for row, (first, last) in enumerate(itertools.pairwise(windows.splits)):
        ids, types = (torch.from_numpy(v[first:last].astype(np.int64))[None] for v in (windows.ids, windows.types))
        with torch.no_grad():
            output = model(input_ids=ids, token_type_ids=types)
        np.testing.assert_allclose(start[row, : last - first], output.start_logits[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(end[row, : last - first], output.end_logits[0], rtol=1e-4, atol=1e-5)


def test_command_trains_answers_and_evaluates(checkpoint, tmp_path, capsys):
    train = write(tmp_path / "train.json", learnable(160, silent=True))
    dev = write(tmp_path / "dev.json", learnable(40, silent=True, seed=1))
    out = tmp_path / "out"
    command = f"--model_name_or_path {checkpoint} --train_file {train} --validation_file {dev} --output_dir {out} "
    command += f"{SHORT} --num_train_epochs 12 --learning_rate 2e-3 --save_strategy no"
    assert main(command.split()) == 0, capsys.readouterr().err
    assert "SQuAD 2.0" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    metrics = results["metrics"]
    assert metrics["HasAns_f1"] > 90 and metrics["best_f1"] >= metrics["f1"] > 75
    predictions = json.loads((out / "predictions.json").read_text())
    odds = json.loads((out / "null_odds.json").read_text())
    gold = {row["id"]: row["answers"]["text"] for row in rows_of(learnable(40, silent=True, seed=1))}
    assert squad_scores(predictions, gold)["f1"] == pytest.approx(metrics["f1"])
    assert all((odds[name] > 0) == (answer == "") for name, answer in predictions.items())
    best = json.loads((out / "nbest_predictions.json").read_text())
    again = {n: "" if odds[n] > metrics["best_f1_thresh"] else best[n][0]["text"] for n in gold}
    assert squad_scores(again, gold)["f1"] == pytest.approx(metrics["best_f1"])
    # the saved model gives the same answers
    evaluation = (
        f"--model_name_or_path {out / 'model'} --validation_file {dev} --output_dir {tmp_path / 'again'} {SHORT}"
    )
    assert main(evaluation.split()) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "again" / "predictions.json").read_text()) == predictions
    # and the finished run is not done again
    (out / "predictions.json").unlink()
    assert main(command.split()) == 0 and not (out / "predictions.json").exists()


def test_a_run_that_was_cut_off_ends_with_the_same_answers(checkpoint, tmp_path, monkeypatch, capsys):
    train = write(tmp_path / "train.json", learnable(24))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fixed = f"--model_name_or_path {checkpoint} --train_file {train} --validation_fraction 0.2 "
    fixed += SHORT.replace("--eval_strategy no", "") + " --num_train_epochs 3 --per_device_train_batch_size 8"
    assert main([*fixed.split(), "--output_dir", str(whole)]) == 0, capsys.readouterr().err
    saved = SquadTrainer._save_checkpoint

    def save_and_stop(self, *args, **kwargs):
        saved(self, *args, **kwargs)
        if self.state.epoch >= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SquadTrainer, "_save_checkpoint", save_and_stop)
    assert main([*fixed.split(), "--output_dir", str(cut)]) == 130
    monkeypatch.undo()
    assert main([*fixed.split(), "--output_dir", str(cut)]) == 0, capsys.readouterr().err
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (whole, cut))
    assert one["metrics"] == two["metrics"] and not one["version_2"]
    losses = [[log["eval_loss"] for log in results["history"]] for results in (one, two)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    first, second = (json.loads((folder / "nbest_predictions.json").read_text()) for folder in (whole, cut))
    assert first == second
    assert not (whole / "null_odds.json").exists() and not list(cut.glob("checkpoint-*"))


FAMILIES = {"roberta-tiny": "byte_bpe", "xlnet-tiny": "unigram", "albert-base": "unigram"}
FAMILIES |= {"deberta-v3-tiny": "unigram", "modernbert-tiny": "wordpiece"}


@pytest.mark.parametrize("name, kind", FAMILIES.items())
def test_other_families_train(name, kind, tmp_path, request, capsys):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    train = write(tmp_path / "train.json", learnable(10))
    layers = "n_layer=1" if name.startswith("xlnet") else "num_hidden_layers=1"
    command = f"--model_name_or_path {name} --tokenizer_name {tmp_path / 'tokenizer'} --train_file {train} "
    command += f"--validation_fraction 0.2 --output_dir {tmp_path / 'out'} {SHORT} --max_steps 1 "
    assert main([*command.split(), "--config_overrides", layers]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_adapters_train_and_load(checkpoint, tmp_path, capsys):
    train = write(tmp_path / "train.json", learnable(10))
    command = f"--model_name_or_path {checkpoint} --train_file {train} --validation_fraction 0.2 {SHORT} --max_steps 3 "
    command += f"--output_dir {tmp_path / 'out'} --peft lora"
    assert main(command.split()) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 < results["trainable_parameters"] < results["parameters"] / 2
    dev = write(tmp_path / "dev.json", learnable(10))
    evaluation = f"--model_name_or_path {tmp_path / 'out' / 'model'} --validation_file {dev} {SHORT} "
    assert main([*evaluation.split(), "--output_dir", str(tmp_path / "again")]) == 0, capsys.readouterr().err
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    again = json.loads((tmp_path / "again" / "predictions.json").read_text())
    assert predictions and all(again[name] == answer for name, answer in predictions.items())


def test_command_refuses(checkpoint, tmp_path, bpe_tokenizer, capsys):
    dev = write(tmp_path / "dev.json", learnable(5))

    def failure(*arguments):
        assert main([*map(str, arguments), "--output_dir", str(tmp_path / "out"), "--use_cpu"]) == 2
        return capsys.readouterr().err

    model = ("--model_name_or_path", checkpoint)
    assert "there are no data" in failure(*model)
    assert "needs a --validation_file" in failure(*model, "--train_file", dev)
    assert "has no head for question answering" in failure(*model, "--validation_file", dev, "--max_seq_length", 200)
    assert "--metric must be one of squad, korquad" in failure(*model, "--validation_file", dev, "--metric", "f1")
    assert "not both" in failure(*model, "--validation_file", dev, "--dataset_name", "rajpurkar/squad")
    bpe_tokenizer.save_pretrained(tmp_path / "bpe")
    gpt = ("--model_name_or_path", "gpt2-tiny", "--tokenizer_name", tmp_path / "bpe", "--train_file", dev)
    assert "has no cls token" in failure(*gpt, "--validation_fraction", "0.2")
