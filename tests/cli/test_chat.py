"""`askesis chat` as a person or a pipe uses it."""

import io

import pytest


@pytest.fixture
def chat(cli, monkeypatch, tmp_path):
    def run(lines, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return cli("chat", "askesis-tiny", "--out", tmp_path / "chat", *arguments)

    return run


def test_a_task_is_worked_at_with_its_tools_and_gone_on_with_later(chat, tmp_path):
    lines = ["/set temperature 0", "/task 1", "/budget 0", "/task", "/fold", "/show", "/tools"]
    done = chat(lines, "--env", "repair")
    assert done.code == 0
    assert "> run_tests()" in done.err
    assert "the task has ended: submitted" in done.err
    assert "thinking ended by the budget" in done.err
    assert "replace: " in done.err
    id = done.err.rsplit("--resume ", 1)[1].split()[0]
    more = chat(["/undo", "/retry"], "--resume", id)
    assert more.code == 2  # there is nothing left to try again
    assert "taken back: Repair solution.py." in more.err
    assert "error: there is nothing to try again" in more.err


def test_only_the_answer_goes_to_stdout_and_a_line_can_go_on(chat):
    done = chat(["first \\", "second /no_think"], "--max-tokens", "20", "--no-save")
    assert done.code == 0
    assert "tokens, none thought" in done.err
    assert "tokens" not in done.out
    assert "saved" not in done.err


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (["/bugdet 3"], [], "no command /bugdet; did you mean 'budget'"),
        (["/budget few"], [], "expected tokens or none, as in /budget 64"),
        (["/effort huge"], [], "effort is 'huge', expected low, medium, high or a number from 0 to 1"),
        (["/task"], [], "there is no task: start with --env ENV"),
        (["/tools on"], [], "there are no tools: start with --env ENV"),
        (["/set top_p 7"], [], "top_p is 7, expected 0 to 1"),
        ([], ["--no-thinking", "--budget", "3"], "leave out --budget and --effort"),
        ([], ["--no-save", "--resume", "latest"], "leave out --no-save"),
        ([], ["--resume", "latest"], "no conversation 'latest'"),
        ([], ["--task", "3"], "are for --env, which is not given"),
        ([], ["--env", "repiar"], "did you mean 'repair'"),
    ],
)
def test_what_is_wrong_is_one_message(chat, lines, arguments, message):
    done = chat(lines, *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) <= 2
