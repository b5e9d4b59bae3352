"""A LangGraph agent that opens a handbook's pages until one answers, then writes to the customer.

Run it with `python apps/langgraph_agent/main.py`. Nothing is downloaded, unless `--model` names a
model of the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import Field

from steerable_llm import Constraint, SteerableHFLLM
from steerable_llm.errors import InvalidInputError, SteerableError

HERE = Path(__file__).resolve().parent
PAGES = (HERE / "handbook.txt").read_text(encoding="utf-8").splitlines()
QUESTION = "What does delivery by Maple Books cost?"
COMPLAINT = "What a terrible shop. My lamp from Maple Books is broken. Hurry up."

NO_ANSWER = "The text does not say."
# The two things that `decide` may say, so that the graph always knows where to go.
DECISION = Constraint.regex(r"According to the text, it is [^.]{1,40}\.|The text does not say\.")


# The bounds hold while a call is written, so no model can ask for a page that is not there.
PageNumber = Annotated[int, Field(ge=1, le=len(PAGES))]


@tool
def open_page(number: PageNumber) -> str:
    """Open a page of the handbook by its number, from 1 on."""
    return PAGES[number - 1]


def make_graph(llm: SteerableHFLLM) -> Any:
    """Make the agent for a model that knows nothing of tools, such as the bundled one.

    The model reads the open page and either answers or says that the page has no answer; decoding
    is held to these two, so that its word can decide where the graph goes on. The nodes name no
    step: the policy knows them by their names.
    """
    model = llm.as_langchain(max_tokens=40)

    def decide(state: MessagesState) -> dict[str, Any]:
        opened = [message for message in state["messages"] if isinstance(message, ToolMessage)]
        question = state["messages"][0].text
        if not opened:
            return {"messages": [AIMessage("", tool_calls=[next_page(1)])]}
        prompt = f"Documents:\n[1] {opened[-1].text}\n\nQuestion: {question}"
        message = model.bind(response_format=DECISION).invoke(prompt)
        if message.text == NO_ANSWER and len(opened) < len(PAGES):
            message.tool_calls = [next_page(len(opened) + 1)]
        return {"messages": [message]}

    def reply(_: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(COMPLAINT)]}

    graph = StateGraph(MessagesState)
    graph.add_node("decide", decide)
    graph.add_node("tools", ToolNode([open_page]))
    graph.add_node("reply", reply)
    graph.add_edge(START, "decide")
    graph.add_conditional_edges("decide", tools_condition, {"tools": "tools", END: "reply"})
    graph.add_edge("tools", "decide")
    graph.add_edge("reply", END)
    return graph.compile()


def next_page(number: int) -> ToolCall:
    """The call that opens a page."""
    return ToolCall(name="open_page", args={"number": number}, id=f"page-{number}")


def make_agent(llm: SteerableHFLLM) -> Any:
    """Make the agent that fits a model: LangChain's own for one that was trained to call tools."""
    if not llm.supports_tools:
        return make_graph(llm)
    prompt = f"The handbook has {len(PAGES)} pages. Open them until one answers the question."
    return create_agent(llm.as_langchain(max_tokens=200), [open_page], system_prompt=prompt)


def applied(message: AIMessage) -> str:
    """Say what steered a message, as the message itself tells it."""
    vectors = message.response_metadata.get("steering") or []
    told = ", ".join(f"{vector['name']} {vector['strength']:+.2f}" for vector in vectors)
    return told or "not steered"


def show(title: str, agent: Any, question: str) -> None:
    """Run an agent and print each node's messages as they come."""
    print(f"\n{title}")
    asked = {"messages": [HumanMessage(question)]}
    for update in agent.stream(asked, stream_mode="updates"):
        for node, change in update.items():
            for message in change["messages"]:
                print(f"  {node:7} {told(message)}")


def told(message: BaseMessage) -> str:
    """Tell a message in one line: its text, its calls, and what steered it."""
    if not isinstance(message, AIMessage):
        return message.text
    calls = [f"{call['name']}({call['args']})" for call in message.tool_calls]
    line = " ".join([message.text, *calls] if message.text else calls)
    return f"{line}    [{applied(message)}]" if message.response_metadata else line


def main(arguments: list[str] | None = None) -> int:
    """Run the agent without and with its policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--question", default=QUESTION, help="what the handbook is asked")
    parser.add_argument("--model", help="a folder or Hub id; default is the bundled model")
    parser.add_argument("--policy", help="its policy file, with vectors that fit the model")
    given = parser.parse_args(arguments)
    if not given.question.strip():
        raise InvalidInputError("the question is empty: ask something, or leave --question out")

    print(f"> {given.question}")
    if given.model is not None:
        llm = SteerableHFLLM.from_pretrained(given.model, policy=given.policy)
        show(given.model, make_agent(llm), given.question)
        return 0
    policy = given.policy or HERE / "policy.toml"
    show("Without a policy", make_agent(SteerableHFLLM.demo()), given.question)
    show(f"With {Path(policy).name}", make_agent(SteerableHFLLM.demo(policy)), given.question)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerableError as error:  # bad input: one line, as the command steerable has it
        print(f"{HERE.name}: {error}", file=sys.stderr)
        sys.exit(2)
