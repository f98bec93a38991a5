"""OpenAI's Agents SDK, unchanged, and a model for it that says what a script says."""

import json
from typing import Any
from uuid import uuid4

import agents
from agents import Agent, ModelResponse, OpenAIConversationsSession, Runner, Usage, function_tool
from agents.extensions.memory import EncryptedSession
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage

__all__ = ["Agent", "EncryptedSession", "OpenAIConversationsSession", "Runner"]

agents.set_tracing_disabled(disabled=True)


class Scripted(Model):
    """A model that says what the script says."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = list(outputs)
        self.inputs: list[Any] = []

    async def get_response(self, *_: Any, **named: Any) -> ModelResponse:
        self.inputs.append(named["input"])
        return ModelResponse(output=[self.outputs.pop(0)], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def said(text: str) -> Any:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return ResponseOutputMessage.model_validate(
        {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "status": "completed", "content": content}
    )


def called(name: str, **arguments: Any) -> Any:
    return ResponseFunctionToolCall(
        type="function_call", call_id=uuid4().hex, name=name, arguments=json.dumps(arguments)
    )


@function_tool
def add_task(title: str) -> str:
    """Add a task."""
    return f"added {title} \0 {'x' * 30_000}"
