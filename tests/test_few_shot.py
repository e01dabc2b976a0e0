"""Prompts and their scores against single forward passes, drawing of examples, and the command."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pretrain_zoo.evaluation.few_shot import ALL, draw, guess, parse_sizes, plot_curves, point, results_table, shots_of
from pretrain_zoo.evaluation.glue_tasks import TASKS, Task
from pretrain_zoo.evaluation.language_model import LanguageModel, model_kind
from pretrain_zoo.evaluation.prompts import PROMPTS, Prompt, check_prompt, get_prompt
from pretrain_zoo.evaluation.task_data import Examples
from pretrain_zoo.evaluation.zero_shot import label_scores, predict
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.scripts.few_shot import main
from pretrain_zoo.training.tokenizer import train_tokenizer

SINGLE = Task("own", "Own", ("text",), ("no", "yes"))
EXAMPLES = Examples(
    (["the miller mends a letter", "an old sailor forgot his umbrella in winter", "nobody"],),
    np.array([0, 1, 1]),
    ["0", "1", "2"],
)
# "clock" is one word of several pieces in small vocabularies, "42 barrels" two words
PROMPT = Prompt("{text1} It was {label} at home.", "{text1}\nIt was {label}", {"no": "nothing", "yes": "42 barrels"})

# prompts


def test_every_task_has_a_prompt_that_fits():
    for task in TASKS.values():
        assert get_prompt(task) is PROMPTS[task.name]
    with pytest.raises(ValueError, match="there is no prompt for Own; give --prompt_file"):
        get_prompt(SINGLE)


def test_filling_keeps_braces_of_the_text():
    text, begin, end = PROMPT.fill(PROMPT.cloze, ("a {b} {label} ",), "great")
    assert text == "a {b} {label} It was great at home." and text[begin:end] == "great"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cloze": "{text1} was"}, "must hold {text1} and, once, {label}"),
        ({"cloze": "{text1} {label} {label}"}, "once"),
        ({"cloze": "{text2} {label}"}, "must hold {text1}"),
        ({"cloze": "{text1} {label} {"}, "malformed"),
        ({"words": {"no": "a"}}, "words are given for no; labels are no, yes"),
        ({"words": {"no": "a", "yes": "a"}}, "a word of its own"),
    ],
)
def test_bad_prompts_are_refused(change, message):
    fields = {"cloze": PROMPT.cloze, "completion": PROMPT.completion, "words": PROMPT.words} | change
    with pytest.raises(ValueError) as error:
        check_prompt(Prompt(**fields), SINGLE, "here")
    assert message in str(error.value)


def test_prompt_files(tmp_path):
    path = tmp_path / "prompt.yaml"
    path.write_text("cloze: '{text1} Was it? {label}'\nwords: {'no': No, 'yes': Yes}\n")
    prompt = get_prompt(SINGLE, path)
    assert prompt.completion == prompt.cloze and prompt.words == {"no": "No", "yes": "Yes"}
    path.write_text("cloze: x\nlabels: {}\n")
    with pytest.raises(ValueError, match="must hold words and cloze or completion"):
        get_prompt(SINGLE, path)
    with pytest.raises(ValueError, match="there is no file"):
        get_prompt(SINGLE, tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="predicts a number"):
        check_prompt(Prompt("{text1} {text2} {label}", "{text1} {text2} {label}", {"a": "x", "b": "y"}),
                     TASKS["stsb"], "here")  # fmt: skip


# scores


@pytest.fixture(scope="module")
def gpt_tokenizer(texts):
    tokenizer = train_tokenizer(texts, "gpt2", vocab_size=400)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def language_model(name, tokenizer, kind, length=96, **settings):
    torch.manual_seed(0)
    auto = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}[kind]
    model = backbone(name, tokenizer, **settings).load(auto)
    for parameter in model.parameters():  # far from the even distribution that fresh weights give
        parameter.data += 0.1 * torch.randn_like(parameter)
    return LanguageModel(model.eval(), tokenizer, kind, length, batch_size=2)


@pytest.mark.parametrize("name, kind", [("bert-tiny", "wordpiece"), ("roberta-tiny", "byte_bpe")])
def test_masked_scores_are_means_over_masks(name, kind, request):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    lm = language_model(name, tokenizer, "masked", num_hidden_layers=1)
    scores, used = label_scores(lm, PROMPT, EXAMPLES)
    lm.rows.positions = None
    pieces = []
    for i, text in enumerate(EXAMPLES.texts[0]):
        for j, word in enumerate(PROMPT.words.values()):
            filled = tokenizer(f"{text} It was {word} at home.")["input_ids"]
            before = len(tokenizer(f"{text} It was")["input_ids"]) - 1
            after = len(tokenizer(" at home.", add_special_tokens=False)["input_ids"]) + 1
            places = range(before, len(filled) - after)
            masked = [tokenizer.mask_token_id if k in places else token for k, token in enumerate(filled)]
            with torch.no_grad():
                logits = lm.model(torch.tensor([masked])).logits[0]
            own = [torch.log_softmax(logits[k], -1)[filled[k]].item() for k in places]
            assert tokenizer.decode([filled[k] for k in places]).strip() == word
            assert scores[i, j] == pytest.approx(sum(own) / len(own), rel=1e-4)
            pieces.append(len(own))
    assert used == 0 and len(set(pieces)) > 1  # words of unlike length
    assert scores.std() > 0.01


@pytest.mark.parametrize("normalized", [False, True])
def test_causal_scores_are_likelihoods_of_word_and_rest(normalized, gpt_tokenizer):
    lm = language_model("gpt2-tiny", gpt_tokenizer, "causal", n_layer=1)
    prompt = Prompt(PROMPT.cloze, "{text1}\nIt was {label} at home.", PROMPT.words)
    shots = [(("nobody sings",), "no"), (("each baker",), "yes")]
    scores, used = label_scores(lm, prompt, EXAMPLES, shots, normalized)
    assert used == 2
    lm.rows.positions = None
    before = "nobody sings\nIt was nothing at home.\n\neach baker\nIt was 42 barrels at home.\n\n"
    for i, text in enumerate(EXAMPLES.texts[0]):
        for j, word in enumerate(PROMPT.words.values()):
            ids = gpt_tokenizer(f"{before}{text}\nIt was {word} at home.")["input_ids"]
            start = len(gpt_tokenizer(f"{before}{text}\nIt was")["input_ids"])
            with torch.no_grad():
                logits = lm.model(torch.tensor([ids])).logits[0]
            own = [torch.log_softmax(logits[k - 1], -1)[ids[k]].item() for k in range(start, len(ids))]
            assert scores[i, j] == pytest.approx(sum(own) / (len(own) if normalized else 1), rel=1e-4)


def test_sentinel_scores(texts):
    tokenizer = train_tokenizer(texts, "bpe", vocab_size=400)
    tokenizer.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    lm = language_model("t5-tiny", tokenizer, "seq2seq", num_layers=1)
    scores, _ = label_scores(lm, PROMPT, EXAMPLES)
    lm.rows.positions = None
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for i, text in enumerate(EXAMPLES.texts[0]):
        for j, word in enumerate(PROMPT.words.values()):
            filled = tokenizer(f"{text} It was {word} at home.")["input_ids"]
            pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            at = next(k for k in range(len(filled)) if filled[k : k + len(pieces)] == pieces)
            source = [*filled[:at], sentinel, *filled[at + len(pieces) :]]
            target = torch.tensor([[sentinel, *pieces]])
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([source]), labels=target).logits[0]
            own = [torch.log_softmax(logits[k], -1)[target[0, k]].item() for k in range(1, len(pieces) + 1)]
            assert scores[i, j] == pytest.approx(sum(own), rel=1e-4)


def test_mask_scores_of_an_encoder_decoder(byte_bpe_tokenizer):
    tokenizer = byte_bpe_tokenizer
    lm = language_model("bart-tiny", tokenizer, "seq2seq", encoder_layers=1, decoder_layers=1)
    scores, _ = label_scores(lm, PROMPT, EXAMPLES)
    lm.rows.positions = None
    start = lm.model.config.decoder_start_token_id
    text = EXAMPLES.texts[0][1]
    for j, word in enumerate(PROMPT.words.values()):
        filled = tokenizer(f"{text} It was {word} at home.")["input_ids"]
        at = len(tokenizer(f"{text} It was")["input_ids"]) - 1
        count = len(tokenizer(word, add_special_tokens=False)["input_ids"])
        source = [*filled[:at], tokenizer.mask_token_id, *filled[at + count :]]
        with torch.no_grad():
            logits = lm.model(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *filled[:-1]]])
            ).logits[0]
        own = [torch.log_softmax(logits[k], -1)[filled[k]].item() for k in range(at, len(filled) - 1)]
        assert scores[1, j] == pytest.approx(sum(own), rel=1e-4)


def test_long_texts_are_cut_and_shots_left_out(gpt_tokenizer):
    lm = language_model("gpt2-tiny", gpt_tokenizer, "causal", length=40, n_layer=1)
    text = "the miller mends a letter "
    long = Examples(([text * 30, "nobody"],), np.array([0, 1]), ["0", "1"])
    shots = [((f"{text}{text}",), "no"), (("nobody",), "yes"), ((text,), "no")]
    lengths = [len(gpt_tokenizer(PROMPT.fill(PROMPT.completion, t, PROMPT.words[label])[0] + "\n\n")["input_ids"])
               for t, label in shots]  # fmt: skip
    own = max(len(gpt_tokenizer(f"nobody\nIt was {word}")["input_ids"]) for word in PROMPT.words.values())
    fitting = max(n for n in range(4) if own + sum(lengths[3 - n :]) <= 40)
    assert 0 < fitting < 3
    scores, used = label_scores(lm, PROMPT, long, shots)
    assert used == pytest.approx(fitting / 2)  # none before the long text, the last ones before the short
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="alone is longer"):
        label_scores(LanguageModel(lm.model, gpt_tokenizer, "causal", 4), PROMPT, long)


def test_what_cannot_be_scored_is_refused(gpt_tokenizer, wordpiece_tokenizer):
    masked = language_model("bert-tiny", wordpiece_tokenizer, "masked", num_hidden_layers=1)
    with pytest.raises(ValueError, match="in-context examples are for causal models"):
        label_scores(masked, PROMPT, EXAMPLES, [(("nobody",), "no")])
    with pytest.raises(ValueError, match="no mask token"):
        LanguageModel(masked.model, gpt_tokenizer, "masked", 64)
    causal = language_model("gpt2-tiny", gpt_tokenizer, "causal", n_layer=1)
    with pytest.raises(ValueError, match="let text stand before"):
        label_scores(causal, Prompt("{label} {text1}", "{label} {text1}", PROMPT.words), EXAMPLES)


def test_predictions():
    scores = np.array([[-1.0, -2.0], [-3.0, -1.0]])
    assert predict(SINGLE, PROMPT, scores).tolist() == [0, 1]
    turned = Prompt(PROMPT.cloze, PROMPT.completion, {"yes": "x", "no": "y"})  # words in another order than labels
    assert predict(SINGLE, turned, scores).tolist() == [1, 0]
    numbers = predict(TASKS["stsb"], PROMPTS["stsb"], scores)
    assert numbers == pytest.approx([5 / (1 + np.e), 5 / (1 + np.exp(-2))])


@pytest.mark.parametrize("name, auto, kind", [("bert-tiny", AutoModelForMaskedLM, "masked"),
                                              ("gpt2-tiny", AutoModelForCausalLM, "causal"),
                                              ("t5-tiny", AutoModelForSeq2SeqLM, "seq2seq")])  # fmt: skip
def test_checkpoints_are_told_apart_and_loaded(name, auto, kind, tmp_path, bpe_tokenizer):
    model = backbone(name, bpe_tokenizer).load(auto)
    model.save_pretrained(tmp_path)
    bpe_tokenizer.save_pretrained(tmp_path)
    assert model_kind(str(tmp_path)) == kind
    lm = LanguageModel.load(str(tmp_path), AutoTokenizer.from_pretrained(tmp_path))
    assert label_scores(lm, PROMPT, EXAMPLES)[0].shape == (3, 2) if kind != "seq2seq" else lm.kind == kind


def test_checkpoints_without_a_head_are_refused(tmp_path, wordpiece_tokenizer):
    from transformers import AutoModelForSequenceClassification

    backbone("bert-tiny", wordpiece_tokenizer).load(AutoModelForSequenceClassification).save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is no masked language model"):
        LanguageModel.load(str(tmp_path), wordpiece_tokenizer)
    with pytest.raises(ValueError, match="random weights"):
        LanguageModel.load("bert-tiny", wordpiece_tokenizer)


# sampling and reports


def labelled(count=60, classes=3):
    texts = [f"text {i}" for i in range(count)]
    return Examples((texts,), np.arange(count) % classes, texts)


THREE = Task("three", "Three", ("text",), ("a", "b", "c"))


def test_draws_are_balanced_nested_and_seeded():
    small, large = (draw(THREE, labelled(), k, seed=1) for k in (4, 9))
    assert np.bincount(small.labels).tolist() == [4, 4, 4] and np.bincount(large.labels).tolist() == [9, 9, 9]
    assert set(small.index) < set(large.index) and len(set(large.index)) == 27
    assert small.index == large.index[:12] == draw(THREE, labelled(), 4, seed=1).index
    assert set(draw(THREE, labelled(), 4, seed=2).index) != set(small.index)
    assert sorted(small.labels[:3]) == [0, 1, 2]  # one of each class in turn
    assert len(draw(THREE, labelled(), 0, seed=1)) == 0
    assert draw(THREE, labelled(), ALL, seed=1).index == labelled().index
    with pytest.raises(ValueError, match="20 examples of the class a, and --k asks for 21"):
        draw(THREE, labelled(), 21, seed=1)


def test_draws_of_a_regression_take_both_halves():
    texts = [str(i) for i in range(20)]
    examples = Examples((texts, texts), np.linspace(0, 5, 20), texts)
    drawn = draw(TASKS["stsb"], examples, 3, seed=0)
    assert (drawn.labels > 2.5).sum() == (drawn.labels < 2.5).sum() == 3
    shots = shots_of(TASKS["stsb"], drawn, PROMPTS["stsb"].words)
    assert all(label == ("5" if value > 2.5 else "0") for (_, label), value in zip(shots, drawn.labels))


def test_sizes():
    assert parse_sizes("16,all, 0,4,4") == [0, 4, 16, ALL]
    with pytest.raises(ValueError, match="--k must be numbers"):
        parse_sizes("4,-1")


def test_points_and_guess():
    found = point(4, 4.0, [0.5, 0.7, 0.9])
    assert found["mean"] == pytest.approx(0.7) and found["deviation"] == pytest.approx(0.2)
    assert (found["median"], found["lowest"], found["highest"]) == (0.7, 0.5, 0.9)
    assert point(0, 0.0, [0.5])["deviation"] == 0
    train = Examples((["a"] * 4,), np.array([2, 2, 1, 0]), ["0"] * 4)
    assert guess(THREE, train, labelled(30)) == pytest.approx(1 / 3)


def test_report(tmp_path):
    curve = [point(2, 2.0, [0.5, 0.6]), point(ALL, 20.0, [0.7, 0.8])]
    results = {
        "title": "Three", "model": "runs/x", "metrics": ["accuracy"], "guess": 1 / 3,
        "curves": {"zero_shot": [point(0, 0.0, [0.4])], "finetune": curve},
    }  # fmt: skip
    plot_curves(results, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = results_table(results)
    assert table.row_count == 4
    assert [list(column.cells) for column in table.columns][1] == ["0", "2", "all", ""]


# the command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 40), ("dev", 20)):
        rows = [{"text": f"the {('miller', 'sailor')[i % 2]} number {i % 7}", "label": ("no", "yes")[i % 2]}
                for i in range(count)]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompt = "cloze: '{text1} It was {label}.'\nwords: {'no': nothing, 'yes': every}\n"
    (folder / "prompt.yaml").write_text(prompt)
    return folder


def command(data, model, *more):
    fixed = f"--model_name_or_path {model} --train_file {data / 'train.jsonl'} --validation_file {data / 'dev.jsonl'} "
    fixed += f"--prompt_file {data / 'prompt.yaml'} --min_steps 3 --max_steps 3 --max_seq_length 32 --use_cpu"
    return [*fixed.split(), *map(str, more)]


def test_command_sweeps_and_goes_on(tmp_path, data, wordpiece_tokenizer, capsys):
    torch.manual_seed(0)
    model = backbone("bert-tiny", wordpiece_tokenizer, num_hidden_layers=1).load(AutoModelForMaskedLM)
    model.save_pretrained(tmp_path / "model")
    wordpiece_tokenizer.save_pretrained(tmp_path / "model")
    run = ["--output_dir", tmp_path / "out", "--seeds", 2, "--methods", "zero_shot,finetune"]
    assert main(command(data, tmp_path / "model", *run, "--k", "0,2")) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "few_shot.json").read_text())
    assert [point["k"] for point in results["curves"]["finetune"]] == [2]
    assert len(results["curves"]["finetune"][0]["scores"]) == 2 and results["guess"] == 0.25  # accuracy ½, F1 0
    assert (tmp_path / "out" / "few_shot.png").is_file()
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    done = tmp_path / "out" / "finetune" / "k-2" / "seed-42" / "results.json"
    marked = json.loads(done.read_text()) | {"score": 0.123}
    done.write_text(json.dumps(marked))  # a finished run is not done again
    assert main(command(data, tmp_path / "model", *run, "--k", "0,2,4")) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "few_shot.json").read_text())
    assert [point["k"] for point in results["curves"]["finetune"]] == [2, 4]
    assert 0.123 in results["curves"]["finetune"][0]["scores"]
    assert main(command(data, tmp_path / "model", *run, "--k", "2", "--learning_rate", "0.1")) == 2
    assert "holds another run" in capsys.readouterr().err


def test_command_refuses(tmp_path, data, capsys):
    out = ["--output_dir", tmp_path / "out"]
    assert main(command(data, "bert-tiny", *out, "--methods", "guess")) == 2
    assert "there is no method 'guess'" in capsys.readouterr().err
    assert main(command(data, "bert-tiny", *out, "--methods", "finetune", "--k", "0")) == 2
    assert "nothing to train on" in capsys.readouterr().err
