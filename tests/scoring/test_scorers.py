"""Scorers: verifiers against published verdicts, models against ``score``, the user's own code."""

import gc
import gzip
import json
import math
import weakref

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from support.places import written
from support.tiny import make_tiny_model

from minialign.data.prompts import read_prompts
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.methods import METHODS
from minialign.models.adapter import adapter_modules
from minialign.records import Prompted
from minialign.rewards import exact, ifeval
from minialign.rewards.english import capital_words, sentences
from minialign.rewards.score import open_measures
from minialign.rewards.scorer import Scorer
from minialign.scoring.open import open_scorer
from minialign.training.settings import Settings
from minialign.training.start import start


def ask(text="What is 2 + 2?", **extra):
    return Prompted([{"role": "user", "content": text}], "prompts.jsonl:3", extra)


def lines(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return [json.loads(line) for line in file]


# ---- exact ------------------------------------------------------------------------------------


def test_all_flags_of_gsm8k_are_reproduced(data):
    rows = lines(data / "gsm8k" / "example_model_solutions.jsonl.gz")
    expected = {"6b_finetuning": 0.2168, "6b_verification": 0.3904, "175b_finetuning": 0.3472,
                "175b_verification": 0.5625}  # fmt: skip
    flags = 0
    for model, accuracy in expected.items():
        right = 0.0
        for row in rows:
            prompt = ask(row["question"], ground_truth=row["ground_truth"])
            (value,) = open_scorer("exact").score(prompt, [row[model]["solution"]])
            assert value == row[model]["is_correct"], row[model]["solution"]
            right += value
            flags += 1
        assert round(right / len(rows), 4) == accuracy
    assert flags == 5276


def test_the_answers_of_gsm8k_are_read_from_its_own_rows(data):
    asked = read_prompts(data / "gsm8k" / "train.jsonl.gz")
    assert len(asked) == 7473
    first = asked[0]
    assert first.extra["answer"].endswith("#### 72")
    answers = ["April 48, May 24, so 72 clips.", "#### 72.0", "The answer is $72.", "73", ""]
    assert open_scorer("exact").score(first, answers) == [1, 1, 1, 0, 0]
    assert all(exact.same_answer(one.extra["answer"], one.extra["answer"]) for one in asked)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"), ("A: 1,234", "1,234"), ("Job A: 20\nA: 8400", "8400"),
        (r"thus \boxed{12} apples", "12"), ("The answer is -3.5.", "-3.5"),
        ("Final answer: **42**", "42"), ("We get 3 and then 5", "5"), ("no idea", None),
        ("#### yes", "yes"), ("Answer: B.", "B"), ("", None),
    ],
)  # fmt: skip
def test_final_answers(text, answer):
    assert exact.final_answer(text) == answer


def test_answers_are_compared_as_numbers_or_words():
    assert exact.same_answer("#### 1,000", "1000.0")
    assert exact.same_answer("The answer is Yes.", "yes")
    assert not exact.same_answer("The answer is no.", "yes")
    assert not exact.same_answer("", "")
    assert open_scorer("exact").score(ask(reference=4), ["It is 4.", "5"]) == [1, 0]
    for row in (ask(), ask(reference=""), ask(reference=None), ask(reference=True)):
        with pytest.raises(UserError, match=r"prompts\.jsonl:3: no reference answer"):
            open_scorer("exact").score(row, ["4"])


# ---- ifeval -----------------------------------------------------------------------------------

MODELS = {
    "Qwen__Qwen2.5-0.5B-Instruct-GPTQ-Int4": 0.3441,
    "Qwen__Qwen2.5-1.5B-Instruct-GPTQ-Int4": 0.4952,
    "hugging-quants__Meta-Llama-3.1-8B-Instruct-AWQ-INT4": 0.8010,
    "mistralai__Mistral-7B-Instruct-v0.3": 0.5899,
}


@pytest.mark.parametrize("model", MODELS)
def test_the_verdicts_of_ifeval_are_reproduced(data, model):
    pytest.importorskip("langdetect")
    asked = {
        row["prompt"]: row for row in lines(data / "ifeval" / "mifeval_en_input_data.jsonl.gz")
    }
    verdicts, other = [], []
    for row in lines(data / "ifeval" / f"stored_eval_{model}.jsonl.gz"):
        given = asked[row["prompt"]]
        for name, arguments, strict in zip(
            given["instruction_id_list"], given["kwargs"], row["strict"], strict=True
        ):
            verdicts.append(ifeval.follows(name, arguments, row["response"]))
            if verdicts[-1] != strict:
                other.append(arguments)
    assert len(verdicts) == 834
    assert round(sum(verdicts) / 834, 4) == MODELS[model]
    # where a letter is asked for that is none, the authors' checker draws one by chance
    assert all(arguments.get("letter") in ("#", "!") for arguments in other)


def test_ifeval_scores_the_share_of_a_rows_instructions(data):
    asked = read_prompts(data / "ifeval" / "input_data.jsonl")
    assert {name for one in asked for name in one.extra["instruction_id_list"]} == set(ifeval.RULES)
    first = asked[0]  # 300 words or more, 3 highlights, no comma
    scorer = open_scorer("ifeval")
    words = "word " * 300
    answers = [f"*a* *b* *c* {words}", words, "*a* *b*, *c*", "short, with a comma", ""]
    assert scorer.score(first, answers) == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    for row in (ask(), ask(instruction_id_list=["punctuation:no_comma"], kwargs=[])):
        with pytest.raises(UserError, match="no instructions to check"):
            scorer.score(row, ["x"])
    with pytest.raises(UserError, match="did you mean 'punctuation:no_comma'"):
        scorer.score(ask(instruction_id_list=["punctuation:no_coma"], kwargs=[{}]), ["x"])
    wrong = ask(instruction_id_list=["length_constraints:number_words"], kwargs=[{"x": 1}])
    with pytest.raises(UserError, match="number_words"):
        scorer.score(wrong, ["x"])


@pytest.mark.parametrize(
    ("name", "arguments", "good", "bad"),
    [
        ("keywords:existence", {"keywords": ["Fox"]}, "a fox", "a dog"),
        ("keywords:forbidden_words", {"forbidden_words": ["ox"]}, "a fox", "an ox"),
        ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "at least"},
         "a a", "a"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Yes"},
         "a\n\n\"yes, b", "a\n\nno"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n** b"),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
        ("detectable_format:title", {}, "<<Joy>> x", "<<>> x"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\np.s. y", "x"),
        ("combination:two_responses", {}, "a******b", "a******a"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Do it"}, "do it now", "now do it"),
        ("startend:end_checker", {"end_phrase": "The end."}, 'x "the end."', "the end. x"),
        ("startend:quotation", {}, '"x"', '"'),
        ("change_case:capital_word_frequency",
         {"capital_frequency": 1, "capital_relation": "less than"}, "all small", "one BIG"),
    ],
)  # fmt: skip
def test_instructions_by_hand(name, arguments, good, bad):
    assert ifeval.follows(name, arguments, good)
    assert not ifeval.follows(name, arguments, bad)


def test_sentences_and_words_in_capitals():
    text = 'Dr. Smith of the U.S. came at 3.15 p.m. today. "Really?" he said! Yes\nand no'
    assert [one.split()[0] for one in sentences(text)] == ["Dr.", '"Really?"', "he", "Yes"]
    assert sentences("") == []
    assert capital_words("NASA, (ESA) and WELL-KNOWN A, not Nasa 12") == 4


# ---- regex, length, the user's own ------------------------------------------------------------


def test_regex_and_length():
    assert open_scorer("regex:^ye?s").score(ask(), ["yes", "no yes", "ys"]) == [1, 0, 1]
    assert open_scorer("regex:a:b").score(ask(), ["a:b", "ab"]) == [1, 0]
    assert open_scorer("length").score(ask(), ["", "one", "one  two\nthree"]) == [0, 1, 3]
    assert open_scorer("length").score(ask(), []) == []


@pytest.fixture
def own(tmp_path):
    """Makes a scorer of a function's source."""
    file = tmp_path / "mine.py"

    def make(source, name="score"):
        file.write_text(source)
        return open_scorer(f"python:{file}:{name}")

    return make


def test_a_function_of_the_users_own(own):
    plain = own("def score(prompt, responses):\n    return [len(r) for r in responses]")
    assert plain.score(ask(), ["a", "abc"]) == [1.0, 3.0]
    row = own(
        "import math\n"
        "def score(prompt, responses, row):\n"
        "    return [row['k'] * len(prompt[-1]['content'])] * len(responses)"
    )
    assert row.score(ask("ab", k=3), ["x", "y"]) == [6.0, 6.0]
    numpy = own("import numpy\ndef score(p, r): return numpy.arange(len(r))")
    assert numpy.score(ask(), ["x", "y"]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0]", "1 scores for 2 responses"),
        ("return 1.0", "returned float"),
        ("return None", "returned NoneType"),
        ("return ['a', 'b']", "returned list"),
        ("return [1.0, float('nan')]", "the score nan for 'no'"),
        ("return [float('inf'), 1]", "the score inf for 'yes'"),
        ("return [1 / 0]", r"mine\.py:score: ZeroDivisionError: division by zero, line 2"),
        ("return responses[5]", "IndexError"),
    ],
)
def test_a_function_that_does_not_score_is_an_error(own, body, said):
    scorer = own(f"def score(prompt, responses):\n    {body}")
    with pytest.raises(UserError, match=said):
        scorer.score(ask(), ["yes", "no"])


def test_files_and_functions_that_are_not_there(own, tmp_path):
    with pytest.raises(UserError, match="did you mean 'score'"):
        own("def score(p, r): return r", "skore")
    with pytest.raises(UserError, match="no functions"):
        own("x = 1")
    with pytest.raises(UserError, match="SyntaxError"):
        own("def score(")
    with pytest.raises(UserError, match="NameError"):
        own("oops")
    with pytest.raises(UserError, match="there is no file"):
        open_scorer(f"python:{tmp_path / 'absent.py'}:score")
    with pytest.raises(UserError, match="there is no file"):
        open_scorer("python:score")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lenght", "did you mean 'length'"), ("length:3", "write length"), ("reward", "reward:RUN"),
        ("regex:", "regex:PATTERN"), ("regex:(", "regex:"), ("jury:x", "there is no scorer"),
        ("reward:nowhere", "there is no run 'nowhere'"), ("dpo:nowhere", "there is no run"),
    ],
)  # fmt: skip
def test_scorers_that_there_are_not(spec, said, home):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        open_scorer(spec)


def test_a_scorer_checks_what_it_is_given():
    assert Scorer("s", lambda p, r: [True] * len(r)).score(ask(), ["a"]) == [1.0]
    assert math.isclose(Scorer("s", lambda p, r: (0.5 for _ in r)).score(ask(), ["a"])[0], 0.5)


# ---- models -----------------------------------------------------------------------------------


@pytest.fixture
def runs(tiny_model, home, tmp_path):
    """A reward run, a DPO run and an SFT run on a few pairs."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"fox {i}", "chosen": "yes", "rejected": "no dog"} for i in range(8)]
    written(file, rows)
    for name in ("reward", "dpo", "sft"):
        settings = Settings(model=str(tiny_model), data=(str(file),), iters=3, eval_split=0.0,
                            max_seq_length=100, learning_rate=1e-2, name=name)  # fmt: skip
        _, events = start(METHODS[name], settings, METHODS[name].config())
        list(events)
    return file


def test_runs_score_as_the_score_command_does(runs):
    prompt = ask("fox 3")
    answers = ["yes", "no dog", ""]
    from minialign.records import Ranking

    record = Ranking(prompt.prompt, answers, [0.0] * 3)
    found = list(open_measures(adapter="dpo").score([record]))
    implicit = open_scorer("dpo:dpo").score(prompt, answers)
    assert implicit == pytest.approx([one.implicit_reward for one in found], abs=1e-5)
    found = list(open_measures(reward="reward").score([record]))
    rewards = open_scorer("reward:reward").score(prompt, answers)
    assert rewards == pytest.approx([one.reward for one in found], abs=1e-5)
    assert rewards[0] > rewards[1]
    assert implicit[0] > implicit[1]
    with pytest.raises(UserError, match="no reward head"):
        open_scorer("reward:dpo")
    with pytest.raises(UserError, match="a run of 'sft'"):
        open_scorer("dpo:sft")
    with pytest.raises(UserError, match="tokens long"):
        open_scorer("reward:reward").score(ask("fox " * 3000), ["yes"])


def test_a_run_on_the_engines_own_base_reads_its_weights(runs, tiny_model, tmp_path):
    from minialign.models.sharing import bare_copy

    prompt, answers = ask("fox 3"), ["yes", "no dog"]
    engine = open_engine(str(tiny_model), "sft")
    other = make_tiny_model(tmp_path / "other", seed=7)

    def arrays(module):
        return {
            id(value) for name, value in tree_flatten(module.parameters()) if "lora" not in name
        }

    ids = encode_prompt(prompt.prompt, engine.tokenizer)
    before = engine.logps(ids, [[5, 6], [7]])
    for spec in ("reward:reward", "dpo:dpo"):
        alone = open_scorer(spec).score(prompt, answers)
        shared = open_scorer(spec, engine=engine)
        assert shared.score(prompt, answers) == alone
        foreign = open_scorer(spec, engine=open_engine(str(other)))  # its own base is loaded then
        assert foreign.score(prompt, answers) == alone
    assert engine.logps(ids, [[5, 6], [7]]) == before  # the policy's adapter is untouched
    copy = bare_copy(engine.model)
    assert arrays(copy.module) <= arrays(engine.model.module)
    assert not adapter_modules(copy.module)
    weights = sum(value.nbytes for _, value in tree_flatten(copy.module.parameters()))
    gone = weakref.ref(copy.module.model)
    gc.disable()  # it goes with its last user, not when Python looks for cycles
    try:
        del copy
        assert gone() is None
    finally:
        gc.enable()

    def grown(**options):
        gc.collect()
        start = mx.get_active_memory()
        kept = open_scorer("reward:reward", **options)
        assert kept.name == "reward:reward"
        return mx.get_active_memory() - start

    assert grown() - grown(engine=engine) > 0.8 * weights
