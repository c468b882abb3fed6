"""What --all-nodes makes of the answers of nodes."""

from __future__ import annotations

from meshtrio.cli.all_nodes import NodeAnswer, NodeCall, _make_answer, to_plain_answers
from meshtrio.messages import control

CALLS = [NodeCall("GetTree", control.GetTreeRequest(), control.Node)]


def make_result(reply: bytes | None, problem: str = "") -> control.NodeResult:
    replies = [] if problem else [control.NodeReply(reply=reply)]
    return control.NodeResult(node="b", replies=replies, problem=problem)


def test_a_malformed_reply_is_a_problem_of_its_node() -> None:
    answer = _make_answer(make_result(b"\xff"), CALLS)
    assert (answer.node, answer.replies) == ("b", ())
    assert answer.problem.startswith("its reply is malformed")


def test_a_reply_that_is_not_set_means_that_there_is_no_such_thing() -> None:
    assert _make_answer(make_result(None), CALLS) == NodeAnswer("b", [None])
    # An empty message is a reply.
    assert _make_answer(make_result(b""), CALLS).replies == [control.Node()]


def test_nodes_without_an_answer_are_the_last_objects() -> None:
    answers = [NodeAnswer("a", (), "down"), NodeAnswer("b", ())]
    rows = [("b", {"name": "echo"})]
    assert to_plain_answers(answers, rows) == [
        {"node": "b", "problem": None, "name": "echo"},
        {"node": "a", "problem": "down"},
    ]
