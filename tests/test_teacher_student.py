"""Students beside their teachers: who is trained and saved, where students begin, refusals, whole runs."""

import pytest
import torch
import torch.nn.functional as F
from distillation_models import ALL, AUTO, NONE, VOCABULARY, batch_of, build, config, losses_of, teacher_folder, texts
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pretrain_zoo.models.flops import flops_per_token
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.teacher_student import TeacherStudent, layer_map, places
from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.arguments import default_model, parse_arguments


def test_the_teacher_stays_outside(tmp_path):
    objective, model = build(teacher_folder(layers=4), model={"hidden": 16}, cosine_weight=0.0, hidden_weight=1.0)
    teacher = model.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    assert not any("teacher" in name or name.startswith("student") for name in model.state_dict())
    assert not any(module is teacher or module is teacher.main for module in model.modules())
    model.train()
    assert model.main.training and not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(model(**batch_of(objective, texts())).sums.values()).backward()
    optimizer.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert model.heads["hidden_projection"].weight.grad.abs().sum() > 0
    model.double()
    model(**batch_of(objective, texts()))
    assert teacher.dtype == torch.float64 and not any(m.training for m in teacher.modules())
    model.save_pretrained(tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) < 1.2 * 8 * sum(
        p.numel() for p in model.parameters()
    )


def test_dropout_is_the_students_alone():
    objective, model = build(teacher_folder(), **{**NONE, "soft_weight": 1.0})
    model.train()
    batch = batch_of(objective, texts())
    first, second = (model(**batch, want=("soft_logits", "teacher_logits")).outputs for _ in range(2))
    assert torch.equal(first["teacher_logits"], second["teacher_logits"])
    assert not torch.equal(first["soft_logits"], second["soft_logits"])
    assert first["soft_logits"].requires_grad and not first["teacher_logits"].requires_grad


def test_teacher_in_half_precision():
    objective, model = build(teacher_folder(), teacher_dtype="bfloat16", **ALL)
    batch = batch_of(objective, texts())
    model(**batch)
    assert model.teacher.dtype == torch.bfloat16 and model.dtype == torch.float32
    full = build(teacher_folder(), **ALL)
    for name, value in losses_of(objective, model, batch).items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(losses_of(*full, batch)[name].item(), rel=0.1)


@pytest.mark.parametrize("dtype", ["int8", "nf4", "fp4"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # bitsandbytes says how it computes on CPUs
def test_quantised_teacher(tmp_path, dtype):
    pytest.importorskip("bitsandbytes")
    wide = {"hidden": 64, "intermediate_size": 64}  # 4-bit kernels of CPUs want multiples of 32
    teacher = teacher_folder(layers=4, **wide)
    settings = {"teacher_dtype": dtype, "student_layers": (0, 2), "hidden_weight": 1.0, "layer_map": (1, 3)}
    objective, model = build(teacher, model=wide, **settings)
    kinds = {type(module).__name__ for module in model.teacher.modules()}
    assert ("Linear8bitLt" if dtype == "int8" else "Linear4bit") in kinds
    source = AutoModelForMaskedLM.from_pretrained(teacher)
    untouched = objective.build(Backbone(config(layers=2, **wide)), VOCABULARY)
    ours, theirs = untouched.main.bert.encoder.layer[1], source.bert.encoder.layer[2]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    batch = batch_of(objective, texts())
    output = model(**batch, want=("teacher_logits",))
    exact = build(teacher, model=wide, **{**settings, "teacher_dtype": None})[1]
    expected = exact(**batch, want=("teacher_logits",)).outputs["teacher_logits"]
    close = F.cosine_similarity(output.outputs["teacher_logits"].float(), expected).mean()
    assert (0.8 if dtype == "fp4" else 0.9) < close < 0.9999999
    sum(output.sums.values()).backward()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_perplexity_is_that_of_the_own_loss():
    assert get_objective("distillation(mlm)").perplexity_term == "mlm"
    relations = {"soft_weight": 0, "student_weight": 0, "cosine_weight": 0, "relation_weight": 1}
    assert get_objective("distillation(mlm)", **relations).perplexity_term is None
    assert get_objective("distillation(mlm+nsp)").perplexity_term is None
    assert get_objective("clm").perplexity_term == "clm" and get_objective("mlm+nsp").perplexity_term is None


def test_flops_of_the_teacher_are_counted():
    """By hand: a third of the teacher's training, on the positions that a loss reads."""
    for settings, share in (({}, 1.0), ({"soft_on": "labels"}, 0.15), ({"soft_weight": 0.0}, 0.0)):
        model = build(teacher_folder(layers=4), **settings)[1]
        student = flops_per_token(model.main, 10, share if settings.get("soft_weight", 1) else 0.15)
        taught = flops_per_token(AutoModelForMaskedLM.from_pretrained(teacher_folder(layers=4)), 10, share) / 3
        assert flops_per_token(model, 10) == pytest.approx(student + taught)


def test_gradient_checkpointing_gives_the_same_gradients():
    objective, model = build(teacher_folder(), **ALL)
    batch = batch_of(objective, texts())
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        sum(model(**batch).sums.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-5)


# whole models


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("distillation(mlm)", "bert", ALL),
        ("distillation(mlm)", "distilbert", {}),
        ("distillation(mlm)", "bert", {**NONE, "relation_weight": 1.0, "relations": ("qk", "vv")}),
        ("distillation(mlm+nsp)", "bert", {}),
        ("distillation(clm)", "gpt2", {"hidden_weight": 0.1, "soft_on": "labels"}),
        ("distillation(span_corruption)", "t5", {"cosine_weight": 1.0}),
    ],
)
def test_a_step_lowers_the_loss_and_the_student_stands_alone(tmp_path, name, kind, settings):
    teacher = teacher_folder("bert" if kind == "distilbert" else kind, layers=4)
    objective, model = build(teacher, name, kind, **settings)
    rows = texts(4, low=12)
    batch = with_pairs(batch_of(objective, rows), name)

    def loss():
        found = losses_of(objective, model, batch)
        return sum(objective.terms[n].weight * value for n, value in found.items())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before
    model.save_pretrained(tmp_path)
    auto = AUTO.get(kind, AutoModelForMaskedLM)
    alone, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    exported = objective.export(model)[""].state_dict()
    assert all(torch.equal(value, exported[n]) for n, value in alone.state_dict().items() if n in exported)
    again = build(teacher, name, kind, seed=9, **settings)[1]
    again.load_checkpoint(tmp_path)
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def with_pairs(batch, name):
    if "nsp" in name:
        batch["pair_labels"] = torch.arange(len(batch["input_ids"])) % 2
    return batch


def test_student_layers():
    teacher = teacher_folder(layers=4)
    source = AutoModelForMaskedLM.from_pretrained(teacher).bert
    settings = {"teacher": teacher, "student_layers": (1, 3)}
    objective = get_objective("distillation(mlm)", **settings)
    from_preset = objective.build(Backbone(config(layers=2)), VOCABULARY)
    own = objective.build(Backbone(AutoConfig.from_pretrained(teacher), teacher), VOCABULARY)
    for model in (from_preset, own):
        assert model.config.num_hidden_layers == 2
        for mine, other in ((0, 1), (1, 3)):
            ours, theirs = model.main.bert.encoder.layer[mine], source.encoder.layer[other]
            assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)
    half = get_objective("distillation(mlm)", teacher_dtype="bfloat16", **settings)
    exact = half.build(Backbone(config(layers=2)), VOCABULARY)  # the student begins from the weights as they were saved
    assert torch.equal(exact.get_input_embeddings().weight, source.get_input_embeddings().weight)
    with pytest.raises(ValueError, match="leave one"):
        objective.build(Backbone(config(layers=2), teacher_folder(layers=2)), VOCABULARY)
    with pytest.raises(ValueError, match="the student has 3"):
        objective.build(Backbone(config(layers=3)), VOCABULARY)


def test_student_layers_of_an_encoder_decoder():
    settings = {"teacher": teacher_folder("t5", layers=4), "student_layers": (0, 3), "student_decoder_layers": (2,)}
    objective = get_objective("distillation(span_corruption)", **settings)
    model = objective.build(Backbone(AutoConfig.from_pretrained(settings["teacher"]), settings["teacher"]), VOCABULARY)
    source = AutoModelForSeq2SeqLM.from_pretrained(settings["teacher"])
    assert (model.config.num_layers, model.config.num_decoder_layers) == (2, 1)
    pairs = [(model.main.encoder.block[1], source.encoder.block[3])]
    pairs.append((model.main.decoder.block[0].layer[2], source.decoder.block[2].layer[2]))
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for wrong in ({"student_decoder_layers": (0,)}, {"student_layers": (0,), "student_decoder_layers": (0,)}):
        with pytest.raises(ValueError, match="student_decoder_layers"):
            get_objective("distillation(mlm)", **wrong)


def test_layer_map():
    assert layer_map(get_objective("distillation(mlm)"), 4, 12) == (3, 6, 9, 12)
    assert layer_map(get_objective("distillation(mlm)", layer_map=(1, 12)), 2, 12) == (1, 12)
    for wrong in ((1, 13), (0, 1), (1,)):
        with pytest.raises(ValueError, match="from 1 to 12"):
            layer_map(get_objective("distillation(mlm)", layer_map=wrong), 2, 12)


def test_places():
    assert places(torch.tensor([7, 2]), torch.tensor([1, 2, 5, 7]), 9).tolist() == [3, 1]


# refusals


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("distillation(rtd)", {}, "cannot wrap rtd"),
        ("distillation(plm)", {}, "cannot wrap plm"),
        ("distillation(nsp)", {}, r"wrap mlm\+nsp"),
        ("distillation(distillation)", {}, "cannot wrap distillation"),
        ("distillation(clm)", {"attention_weight": 1.0}, "needs encoders"),
        ("distillation(clm)", {"relation_weight": 1.0}, "needs encoders"),
        ("distillation(span_corruption)", {"hidden_weight": 1.0}, "single stack"),
        ("distillation(mlm)", {"temperature": 0.0}, "above 0"),
        ("distillation(mlm)", {"divergence": "kl"}, "'forward' or 'reverse' or 'jensen_shannon'"),
        ("distillation(mlm)", {"soft_weight": -1.0}, "must not be negative"),
        ("distillation(mlm)", {"soft_weight": 0.0, "cosine_weight": 0.0}, "nothing is learnt"),
        ("distillation(mlm)", {"relations": ("qv",)}, "relations must be"),
        ("distillation(mlm)", {"temprature": 2.0}, "did you mean 'temperature'"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective(name, **settings)


@pytest.mark.parametrize(
    ("settings", "student", "message"),
    [
        ({}, {"hidden": 16}, "cosine_weight=0"),
        ({}, {"vocab_size": 80}, "vocab_size to 61"),
        ({**NONE, "attention_weight": 1.0}, {"heads": 4}, "attention heads"),
        ({**NONE, "relation_weight": 1.0}, {"heads": 4}, "relation_heads"),
        ({**NONE, "relation_weight": 1.0, "relation_heads": 5}, {}, "do not divide"),
        ({**NONE, "relation_weight": 1.0, "relation_layer": 3}, {}, "none of the teacher's layers"),
        ({**NONE, "hidden_weight": 1.0}, {"layers": 3}, "spread evenly"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(settings, student, message):
    layers = student.pop("layers", 2)
    with pytest.raises(ValueError, match=message):
        build(teacher_folder(), layers=layers, model=student, **settings)


def test_architectures_that_hide_their_attention_are_refused():
    for kind, message in (("mpnet", "cannot be told apart"), ("deberta-v2", "relative to each other")):
        with pytest.raises(ValueError, match=message):
            build(teacher_folder(kind), kind=kind, attention_weight=1.0)


def test_missing_and_unfit_teachers_are_refused(wordpiece_tokenizer, tmp_path):
    parts = Backbone(config())
    with pytest.raises(ValueError, match="needs a teacher"):
        get_objective("distillation(mlm)").build(parts, VOCABULARY)
    for nowhere in ("nowhere", "/nowhere/at/all"):
        with pytest.raises(ValueError, match=f"there is no folder '{nowhere}'"):
            get_objective("distillation(mlm)", teacher=nowhere).build(parts, VOCABULARY)
    objective = get_objective("distillation(mlm)", teacher=teacher_folder())
    with pytest.raises(ValueError, match="embeddings for 61 tokens"):
        objective.check(Vocabulary.from_tokenizer(wordpiece_tokenizer), config())
    # a teacher that was trained with other tokens of the same number
    teacher = AutoModelForMaskedLM.from_config(config(vocab_size=len(wordpiece_tokenizer)))
    teacher.save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    objective = get_objective("distillation(mlm)", teacher=str(tmp_path))
    objective.check(Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path)), config())
    with pytest.raises(ValueError, match="not that of the teacher"):
        objective.check(VOCABULARY, config())


def test_rows_longer_than_the_teacher_takes():
    objective, model = build(teacher_folder(), model={"max_position_embeddings": 80})
    assert isinstance(model, TeacherStudent)
    with pytest.raises(ValueError, match="positions for 40 tokens, and rows have 52"):
        model(**batch_of(objective, texts(2, low=50, high=51)))


# the command line


def test_arguments():
    common = ["--teacher", "a/b", "--use_cpu", "--objective"]
    run = parse_arguments([*common, "distillation(mlm)", "--student_layers", "0,2", "--mlm.mlm_probability", "0.3"])
    assert run.objective.student_layers == (0, 2) and run.objective.wrapped.mlm_probability == 0.3
    assert run.model.model_name_or_path == "a/b" and run.model.tokenizer_name is None  # a checkpoint brings its own
    run = parse_arguments([*common, "distillation(clm)", "--model_name_or_path", "gpt2-mini"])
    assert run.model.tokenizer_name == "a/b"
    assert default_model("distillation(clm)") == default_model("clm") == "gpt2-tiny"


def test_from_the_command_line(tmp_path, capsys):
    lines = "".join(
        f"The {a} sat on the {b}. It saw the {b}, and the {a} left.\n\n" for a in ["cat", "dog"] for b in "abcdef"
    )
    (tmp_path / "corpus.txt").write_text(lines * 5)
    common = f"--corpus {tmp_path / 'corpus.txt'} --cache_dir {tmp_path / 'cache'} --vocab_size 120 --max_seq_length 16"
    common += " --use_cpu --per_device_train_batch_size 4 --max_steps 3 --eval_steps 3 --save_steps 2 --logging_steps 1"
    teach = f"{common} --objective mlm --model_name_or_path bert-mini --output_dir {tmp_path / 'teacher'}"
    assert (
        main(teach.split() + ["--config_overrides", "hidden_size=16,num_attention_heads=2,intermediate_size=16"]) == 0
    )
    learn = f"{common} --objective distillation(mlm) --teacher {tmp_path / 'teacher'} --student_layers 0,3"
    assert main(f"{learn} --output_dir {tmp_path / 'student'}".split()) == 0
    student, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert student.config.num_hidden_layers == 2 and not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == (
        AutoTokenizer.from_pretrained(tmp_path / "teacher").get_vocab()
    )
    shape = "--config_overrides dim=16,n_heads=2,hidden_dim=16 --model_name_or_path distilbert-mini"
    assert main(f"{learn} {shape} --output_dir {tmp_path / 'distilbert'}".split()) == 0
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "distilbert").config.model_type == "distilbert"
    capsys.readouterr()
    assert main(f"{learn} --temperature 0 --output_dir {tmp_path / 'never'}".split()) == 2
    assert "temperature must be above 0" in capsys.readouterr().err
