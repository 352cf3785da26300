"""A job is read as people mean it; what is wrong is said at once, with its place and the way out."""

from pathlib import Path

import pytest

from runner.spec.errors import Finding, JobError, render
from runner.spec.load import Loaded, load

GOOD = """\
model: Qwen/Qwen2.5-1.5B-Instruct
dataset: {path: data.jsonl, prompt: "Make {target} from {nums}."}
rewards:
  format: {fn: rewards.py:format, weight: 0.2}
  equation: {fn: rewards.py:equation, trusted: true}
grpo:
  steps: 20
"""


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, *overrides: str, name: str = "job.yaml") -> Loaded:
    return load(write(folder, text, name), overrides)


def findings(folder: Path, text: str, *overrides: str, name: str = "job.yaml") -> tuple[Finding, ...]:
    with pytest.raises(JobError) as caught:
        read(folder, text, *overrides, name=name)
    return caught.value.findings


def only(folder: Path, text: str, *overrides: str, name: str = "job.yaml") -> Finding:
    (found,) = findings(folder, text, *overrides, name=name)
    return found


def place(finding: Finding) -> tuple[int, int, str, str]:
    return finding.line, finding.column, finding.code, finding.field


def test_a_minimal_job_has_every_default_in_force(tmp_path: Path) -> None:
    loaded = read(
        tmp_path, "model: m\ndataset: {path: d.jsonl}\nrewards: {r: {fn: rewards.py:f}}\n", name="cd/job.yaml"
    )
    assert (loaded.name, loaded.job.name, loaded.folder) == ("cd", "cd", tmp_path / "cd")
    assert (loaded.job.grpo.num_generations, loaded.job.grpo.beta, loaded.job.lora) == (8, 0.0, None)
    assert loaded.job.rewards["r"].on_error == "mask"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("1.0e-6", 1e-6),
        (".5", 0.5),
        ("5.", 5.0),
        ("1", 1.0),
        ("+2", 2.0),
        ("010", 10.0),
        ("0x10", 16.0),
        ("0o10", 8.0),
    ],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    loaded = read(tmp_path, GOOD + f"  learning_rate: {text}\n")
    assert loaded.job.grpo.learning_rate == value


@pytest.mark.parametrize(
    "text", ["on", "yes", "no", "off", "y", "2024-01-01", "12:30", "1_000", "=", "<<", "0b11", "1e", "0x"]
)
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, GOOD + f"labels: {{a: {text}}}\n").job.labels == {"a": text}


def test_true_and_false_are_the_only_switches(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD + "  vllm: False\n").job.grpo.vllm is False
    found = only(tmp_path, GOOD + "  vllm: no\n")
    assert (*place(found), found.hint) == (8, 9, "type", "grpo.vllm", "write true or false")


def test_a_name_that_is_a_number_in_yaml_is_a_name(tmp_path: Path) -> None:
    text = "model: m\ndataset: {path: d.jsonl}\nrewards: {1: {fn: rewards.py:f}, on: {fn: rewards.py:f}}\n"
    assert list(read(tmp_path, text).job.rewards) == ["1", "on"]


def test_the_error_shows_place_line_caret_and_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "  num_generation: 8\n")
    with pytest.raises(JobError) as caught:
        load(path)
    assert render(caught.value.findings) == (
        f"{path}:8:3: error[unknown-field] grpo.num_generation: no such field\n"
        "    8 |     num_generation: 8\n"
        "      |     ^ did you mean `num_generations`?"
    )


def test_all_errors_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
learning_rate: 1e-5
dataset: {path: 5, format: chta}
rewards:
  a b: {fn: rewards.py:f}
  c: {fn: rewards, wieght: 1}
grpo:
  num_generations: 1
  beta: "0.1"
emulator:
stop: {at_least: 1}
"""
    assert [place(item) for item in findings(tmp_path, text)] == [
        (1, 1, "missing-field", "model"),
        (1, 1, "unknown-field", "learning_rate"),
        (2, 17, "type", "dataset.path"),
        (2, 28, "choice", "dataset.format"),
        (4, 3, "pattern", "rewards.a b"),
        (5, 11, "pattern", "rewards.c.fn"),
        (5, 20, "unknown-field", "rewards.c.wieght"),
        (7, 20, "range", "grpo.num_generations"),
        (8, 9, "type", "grpo.beta"),
        (9, 1, "missing-value", "emulator"),
        (10, 1, "missing-field", "stop.metric"),
    ]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("learning_rate: 1e-5", "it belongs in `grpo:`"),
        ("rank: 8", "it belongs in `lora:`"),
        ("train_steps: 5", "here it is `grpo.steps`"),
        ("max_steps: 5", "here it is `grpo.steps`"),
        ("base_model: m", "here it is `model`"),
        ("kl_coef: 0.1", "here it is `grpo.beta`"),
        ("reward_funcs: []", "here it is `rewards`"),
        ("rollout: {n: 8}", "here it is `grpo` · `n`: here it is `grpo.num_generations`"),
        ("backend: trl", "the verb decides: `runner run` trains on a GPU, `runner emulate` on a CPU"),
        ("datset: {}", "did you mean `dataset`?"),
        ("learning_rat: 1", "did you mean `learning_rate`? It belongs in `grpo:`"),
        ("Priority: 1", "did you mean `priority`?"),
    ],
)
def test_a_foreign_or_mistyped_field_is_told_where_it_belongs(tmp_path: Path, line: str, hint: str) -> None:
    assert only(tmp_path, f"{line}\n{GOOD}").hint == hint


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: b: c\n", "yaml", 1, 5),
        ("model: m\n\tgrpo: {}\n", "yaml", 2, 1),
        ("model: 'm\ngrpo: 3\n", "yaml", 1, 8),
        ("model: {a: 1\n", "yaml", 2, 1),
        ("model: @m\n", "yaml", 1, 8),
        ("model: *m\n", "yaml", 1, 8),
        ("model: !!python/object:os.system m\n", "yaml", 1, 8),
        ("--- \nmodel: m\n---\nmodel: n\n", "yaml", 3, 1),
        ("lora: &a {rank: 4}\ngrpo: *a\n", "yaml", 2, 7),
        ("a: &a [*a]\n", "yaml", 1, 8),
        ("", "empty", 1, 1),
        ("# nothing\n", "empty", 1, 1),
        ("- model: m\n", "type", 1, 1),
        ("just text\n", "type", 1, 1),
        ("model: m\0\n", "character", 1, 9),
        ("[" * 5000, "too-big", 1, 65),
        ("a: " + "- " * 100, "yaml", 1, 4),
        ("x: [" + "1," * 20_000 + "]", "too-big", 1, 19999),
        ('model: "\\uD800"\nrewards: {r: {fn: r.py:f}}\ndataset: {path: d}', "character", 1, 8),
    ],
)
def test_text_that_is_no_job_is_refused_with_its_place(
    tmp_path: Path, text: str, code: str, line: int, column: int
) -> None:
    found = findings(tmp_path, text)[0]
    assert (found.code, found.line, found.column) == (code, line, column)


def test_a_bomb_of_aliases_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    assert only(tmp_path, bomb).message == "an alias may stand for a single value only"


def test_an_alias_for_a_single_value_works_and_errs_at_its_own_place(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 20", "steps: &n 20")
    assert read(tmp_path, text + "  prompts_per_step: *n\n").job.grpo.prompts_per_step == 20
    assert place(only(tmp_path, text + "  dtype: *n\n")) == (8, 10, "choice", "grpo.dtype")


def test_a_second_key_of_the_same_name_is_refused(tmp_path: Path) -> None:
    found = only(tmp_path, GOOD + "  steps: 30\n")
    assert (*place(found), found.message) == (8, 3, "duplicate-key", "grpo.steps", "given twice, first in line 7")


def test_a_field_without_a_value_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    found = only(tmp_path, GOOD + "lora:\n")
    assert (*place(found), found.message) == (8, 1, "missing-value", "lora", "has no value")
    assert read(tmp_path, GOOD + "lora: {}\n").job.lora is not None
    assert read(tmp_path, GOOD + "lora: null\n").job.lora is None


def test_an_unquoted_template_is_told_to_take_quotes(tmp_path: Path) -> None:
    found = only(tmp_path, GOOD.replace('"Make {target} from {nums}."', "{nums}"))
    assert found.hint == "put the text in quotes; a plain `{` begins a section"


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"model: \xff\n", "encoding", 1, 8),
        (b"a: 1\nb: \xe4\n", "encoding", 2, 4),
        ("model: m\n".encode("utf-16"), "encoding", 1, 1),
        (b"# " + b"x" * 300_000, "too-big", 1, 1),
    ],
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, data: bytes, code: str, line: int, column: int) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(data)
    with pytest.raises(JobError) as caught:
        load(path)
    assert [(f.code, f.line, f.column) for f in caught.value.findings] == [(code, line, column)]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"  stepz: 1\r\n")
    with pytest.raises(JobError) as caught:
        load(path)
    assert [place(f) for f in caught.value.findings] == [(8, 3, "unknown-field", "grpo.stepz")]
    assert caught.value.findings[0].excerpt == "  stepz: 1"


def test_a_folder_or_a_missing_file_is_said_to_be_one(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.yaml", "No such file"),
        (Path("/dev/null"), "regular"),
    ):
        with pytest.raises(JobError) as caught:
            load(path)
        assert said in caught.value.findings[0].message


def test_json_is_read_by_the_same_rules(tmp_path: Path) -> None:
    text = """{
\t"model": "m", "dataset": {"path": "d.jsonl", "prompt": "\\ud83d\\ude00 {q}"},
\t"rewards": {"r": {"fn": "rewards.py:f"}}, "grpo": {"learning_rate": 1e-6, "stepz": 2}
}"""
    found = only(tmp_path, text, name="cd.json")
    assert place(found) == (3, 76, "unknown-field", "grpo.stepz")
    loaded = read(tmp_path, text.replace("stepz", "steps"), name="cd.json")
    assert (loaded.name, loaded.job.dataset.prompt) == ("cd", "😀 {q}")


def test_the_name_is_the_jobs_own_or_the_folders_or_the_files(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, name="My job (1)/job.yaml").name == "My-job-1"
    assert read(tmp_path, GOOD, name="x/other.yml").name == "other"
    assert read(tmp_path, "name: mine\n" + GOOD, name="x/other.yml").name == "mine"
    found = only(tmp_path, GOOD, name="日本/job.yaml")
    assert (found.field, found.hint) == ("name", "give the job a `name:`")


def test_an_override_replaces_adds_and_is_recorded(tmp_path: Path) -> None:
    loaded = read(tmp_path, GOOD, "grpo.steps=5", "lora.rank=4", "rewards.format.weight=1e-1", 'labels={a: "b"}')
    job = loaded.job
    assert (job.grpo.steps, job.lora and job.lora.rank, job.rewards["format"].weight) == (5, 4, 0.1)
    assert job.labels == {"a": "b"}
    assert loaded.overrides == ("grpo.steps=5", "lora.rank=4", "rewards.format.weight=1e-1", 'labels={a: "b"}')


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    text = GOOD + "expect: [{metric: reward, at_least: 1}]\n"
    assert read(tmp_path, text, "expect.0.at_least=0.5").job.expect[0].at_least == 0.5
    assert only(tmp_path, text, "expect.1.at_least=0.5").code == "override"


def test_an_override_can_mend_a_fault_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD + "lora:\n", "lora.rank=4").job.lora is not None


@pytest.mark.parametrize(
    ("override", "code", "field", "column"),
    [
        ("grpo.stepz=5", "unknown-field", "grpo.stepz", 1),
        ("grpo.steps=five", "type", "grpo.steps", 12),
        ("grpo.steps=0", "range", "grpo.steps", 12),
        ("grpo.steps=", "missing-value", "", 1),
        ("grpo.steps", "override", "", 1),
        ("grpo..steps=1", "override", "", 1),
        ("model.x=1", "override", "", 1),
        ("labels={a: b, a: c}", "duplicate-key", "labels.a", 15),
        ("grpo.beta=[1", "yaml", "grpo.beta", 13),
    ],
)
def test_a_wrong_override_is_shown_in_itself(tmp_path: Path, override: str, code: str, field: str, column: int) -> None:
    found = [item for item in findings(tmp_path, GOOD, override) if item.code == code]
    assert [(f.file, f.line, f.column, f.field, f.excerpt) for f in found] == [("--set", 1, column, field, override)]


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("stop: {metric: rewards/formt/mean, at_least: 1}", "stop.metric", "there is no reward named `formt`"),
        ("expect: [{metric: eval/rewards/x/mean, at_least: 1}]", "expect.0.metric", "there is no reward named `x`"),
        ("emulator: {expect: [{metric: rewards/x/mean, at_most: 1}]}", "emulator.expect.0.metric", "no reward named"),
        ("stop: {metric: reward}", "stop", "reward has no bound to keep"),
        ("stop: {metric: reward, at_least: 2, at_most: 1}", "stop.at_least", "at_least 2 is above at_most 1"),
        ("emulator: {policy: replay}", "emulator.policy", "`replay` needs completions to replay"),
        ("limits: {max_tokens: 5.0}", "limits.max_tokens", "5.0 is not a whole number"),
        ("stop: {metric: reward, at_least: .nan}", "stop.at_least", "NaN is not finite"),
    ],
)
def test_what_only_the_model_can_know_is_semantic(tmp_path: Path, line: str, field: str, message: str) -> None:
    found = only(tmp_path, GOOD + line + "\n")
    assert (found.code, found.field, found.line) == ("semantic", field, 8)
    assert message in found.message


def test_rewards_that_teach_nothing_are_refused_along_with_everything_else(tmp_path: Path) -> None:
    text = "model: m\ndataset: {path: d, format: text, system: s}\nrewards: {r: {fn: r.py:f, weight: 0}}\n"
    assert [place(item) for item in findings(tmp_path, text)] == [
        (2, 42, "semantic", "dataset.system"),
        (3, 1, "semantic", "rewards"),
    ]


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    shown = render(findings(tmp_path, GOOD + '  dtype: "\\e[2J\\u202Egpj"\n  "\\e]0;x\\a": 1\n'))
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_a_finding_of_another_room_gets_the_place_of_its_field(tmp_path: Path) -> None:
    loaded = read(tmp_path, GOOD)
    (path, rank, elsewhere) = loaded.locate(
        [
            Finding(code="x", message="m", field="dataset.path"),
            Finding(code="x", message="m", field="grpo.beta"),
            Finding(code="x", message="m", field="dataset.path", file="data.jsonl", line=3),
        ]
    )
    assert (path.line, path.column, path.excerpt[:8]) == (2, 17, "dataset:")
    assert (rank.line, rank.column) == (6, 1)
    assert (elsewhere.file, elsewhere.line) == ("data.jsonl", 3)
