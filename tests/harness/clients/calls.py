"""The usual calls of one client package, as an application makes them.

Runs in the environment of `requirements/clients.lock`.

Usage: ``calls.py PACKAGE URL MODEL BROKEN``, with the key in ``PLATFORM_KEY``. ``MODEL`` has a slash in its name, ``BROKEN``
is a model whose streams break off. Prints one JSON object with the result of each call: the name of the exception where an
engine may refuse the call and does.
"""

import copy
import json
import os
import sys
from collections.abc import Callable
from typing import Any

KEY = os.environ["PLATFORM_KEY"]
HELLO = [{"role": "user", "content": "Tell me about Paris."}]
CITIES = ["Paris", "Rome"]
SCHEMA: dict[str, Any] = {
    "title": "city",
    "type": "object",
    "properties": {"name": {"type": "string", "enum": CITIES}},
    "required": ["name"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": SCHEMA}}
OBJECT_TOKENS = 40
"""Enough tokens for an object of ``SCHEMA``."""
GREEDY: Any = {"extra_body": {"temperature": 0}}
"""Anthropic's package has no parameter for the temperature."""
AUDIO: Any = ("speech.wav", b"RIFF")
PIXEL = "iVBORw0KGgo="
PICTURES = ("image_url", "input_image", "image", "document")
CALLS_MADE: Any = [
    {"id": f"call_{n}", "type": "function", "function": {"name": "weather", "arguments": '{"name":"Paris"}'}}
    for n in (1, 2)
]
# A later turn of an agent: tools called in parallel, a picture, and the options that agents send. The simulator calls no
# tool itself, so none may be chosen.
AGENT_CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "You are an agent."}]},
        {"role": "user", "content": [
            {"type": "text", "text": "How is the weather?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": CALLS_MADE},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "rainy"}]},
    ],
    "max_tokens": 5, "tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": True, "metadata": {"a": "b"},
    "store": False, "service_tier": "auto", "reasoning_effort": "low", "stop": ["\n\n\n"], "user": "u",
    "prompt_cache_key": "s", "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip
AGENT_RESPONSE: dict[str, Any] = {
    "input": [
        {"role": "developer", "content": "You are an agent."},
        {"role": "user", "content": [
            {"type": "input_text", "text": "How is the weather?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ],
    "max_output_tokens": 5, "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}],
    "tool_choice": "none", "store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "s",
    "parallel_tool_calls": False, "reasoning": {"effort": "low", "summary": "auto"}, "stream": True,
}  # fmt: skip
CACHED: Any = {"cache_control": {"type": "ephemeral"}}
AGENT_MESSAGE: dict[str, Any] = {
    "system": [{"type": "text", "text": "You are an agent.", **CACHED}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "How is the weather?", **CACHED}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I call the tool.", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"name": "Paris"}},
            {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"name": "Rome"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": "no weather"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            ], **CACHED},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
        ]},
    ],
    "max_tokens": 5, "tools": [{"name": "weather", "input_schema": SCHEMA, **CACHED}], "tool_choice": {"type": "none"},
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"}, "service_tier": "auto",
    "stop_sequences": ["\n\n\n"], "extra_body": {"top_k": 5}, "betas": ["interleaved-thinking-2025-05-14"],
}  # fmt: skip
Found = dict[str, Any]


def without_pictures(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of an agent's turn without its pictures and documents, for a model that reads only text."""
    kept = copy.deepcopy(turn)
    pending: list[Any] = [kept]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            value[:] = [
                part for part in value if not isinstance(part, dict) or part.get("type") not in PICTURES
            ]
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return kept


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of ``call``, or the name of the exception that it raises."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__


def raised(call: Callable[[], Any]) -> str:
    """Return the name of the exception that ``call`` raises, "" for none."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def is_city(value: Any) -> bool:
    """Return whether a text or an object is an object of ``SCHEMA``."""
    found = json.loads(value) if isinstance(value, str) else value
    return set(found) == {"name"} and found["name"] in CITIES


def refused_id(call: Callable[[], Any]) -> list[Any]:
    """Return the name of the exception that ``call`` raises, and whether it has the request's id."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, bool(getattr(error, "request_id", ""))]
    return []


def openai_calls(url: str, model: str, broken: str) -> Found:
    """OpenAI's own package: models, chat, completions, Responses, embeddings, errors."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)
    chat: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**chat)
    completion = client.completions.create(model=model, prompt="Paris is", max_tokens=5)
    chunks = list(client.chat.completions.create(**chat, stream=True))
    return {
        **openai_objects(client, model),
        **openai_agents(client, model),
        **openai_sounds(client, model),
        "request_id": bool(whole._request_id),
        "listed": model in [entry.id for entry in client.models.list()],
        "retrieved": client.models.retrieve(model).id,
        "chat": [whole.model, whole.usage and whole.usage.completion_tokens],
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content,
        "completion": completion.usage and completion.usage.completion_tokens,
        "embedding": outcome(lambda: len(client.embeddings.create(model=model, input="hi").data)),
        "tools": raised(lambda: client.chat.completions.create(**chat, tools=[TOOL])),
        "unknown": raised(lambda: client.chat.completions.create(**{**chat, "model": "unknown"})),
        "broken": raised(
            lambda: list(client.chat.completions.create(**{**chat, "model": broken}, stream=True))
        ),
        "broken_response": raised(
            lambda: list(client.responses.create(model=broken, input="hi", stream=True))
        ),
    }


def openai_objects(client: Any, model: str) -> Found:
    """Structured output and a forced tool, over chat and Responses."""
    chat: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": OBJECT_TOKENS}
    response: dict[str, Any] = {"model": model, "input": "Which city?", "max_output_tokens": OBJECT_TOKENS}
    tool: dict[str, Any] = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    city = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    chosen = {"type": "function", "function": {"name": "weather"}}

    def forced() -> list[Any]:
        whole = client.chat.completions.create(**chat, tools=[TOOL], tool_choice=chosen)
        call = whole.choices[0].message.tool_calls[0].function
        return [call.name, is_city(call.arguments)]

    def forced_in_response() -> list[Any]:
        choice = {"type": "function", "name": "weather"}
        whole = client.responses.create(**response, tools=[tool], tool_choice=choice)
        return [[part.name, is_city(part.arguments)] for part in whole.output if part.type == "function_call"]

    return {
        "structured": outcome(
            lambda: is_city(
                client.chat.completions.create(**chat, response_format=city).choices[0].message.content
            )
        ),
        "structured_response": outcome(
            lambda: is_city(
                client.responses.create(
                    **response, text={"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}
                ).output_text
            )
        ),
        "forced": outcome(forced),
        "forced_response": outcome(forced_in_response),
    }


def openai_agents(client: Any, model: str) -> Found:
    """Responses, and later turns of an agent over chat and Responses, with and without pictures."""

    def chat(turn: dict[str, Any]) -> int:
        return int(list(client.chat.completions.create(model=model, **turn))[-1].usage.completion_tokens)

    def response(turn: dict[str, Any]) -> int:
        return int(list(client.responses.create(model=model, **turn))[-1].response.usage.output_tokens)

    asked: dict[str, Any] = {"model": model, "input": "hi", "max_output_tokens": 5}
    events = [event.type for event in client.responses.create(**asked, stream=True)]
    return {
        "agent": outcome(lambda: chat(AGENT_CHAT)),
        "agent_text": outcome(lambda: chat(without_pictures(AGENT_CHAT))),
        "agent_response": outcome(lambda: response(AGENT_RESPONSE)),
        "agent_response_text": outcome(lambda: response(without_pictures(AGENT_RESPONSE))),
        "response": client.responses.create(**asked).model,
        "response_stream": [events[0], events[-1]],
    }


def openai_sounds(client: Any, model: str) -> Found:
    """Transcriptions, whole and streamed, and a translation."""

    def streamed() -> list[str]:
        chunks = client.audio.transcriptions.create(model=model, file=AUDIO, stream=True)
        last = [chunk.model_dump() for chunk in chunks][-1]
        return [last["object"], last["model"]]

    return {
        "heard": [
            outcome(lambda: bool(client.audio.transcriptions.create(model=model, file=AUDIO).text)),
            outcome(lambda: bool(client.audio.translations.create(model=model, file=AUDIO).text)),
        ],
        "heard_stream": outcome(streamed),
    }


def anthropic_calls(url: str, model: str, broken: str) -> Found:
    """Anthropic's own package: messages, streams, token counts, errors."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=60)
    message: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 5, **GREEDY}
    whole = client.messages.create(**message)
    with client.messages.stream(**message) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    used = whole.usage
    prompt_tokens = (
        used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    )

    def read_broken() -> None:
        with client.messages.stream(**{**message, "model": broken}) as stream:
            list(stream.text_stream)

    def agent(turn: dict[str, Any]) -> int:
        with client.beta.messages.stream(model=model, **turn) as stream:
            return int(stream.get_final_message().usage.output_tokens)

    def forced() -> list[Any]:
        answer = client.messages.create(
            **{**message, "max_tokens": OBJECT_TOKENS},
            tools=[{"name": "weather", "input_schema": SCHEMA}],
            tool_choice={"type": "tool", "name": "weather"},
        )
        return [[part.name, is_city(part.input)] for part in answer.content if part.type == "tool_use"]

    return {
        "agent": outcome(lambda: agent(AGENT_MESSAGE)),
        "agent_text": outcome(lambda: agent(without_pictures(AGENT_MESSAGE))),
        "forced": outcome(forced),
        "request_id": bool(whole._request_id),
        "listed": model in [entry.id for entry in client.beta.models.list()],
        "retrieved": client.beta.models.retrieve(model).id,
        "wrong_key": refused_id(lambda: client.with_options(api_key="sk-wrong").messages.create(**message)),
        "message": [whole.model, whole.usage.output_tokens, whole.stop_reason],
        "streamed": [text == whole.content[0].text, final.usage.output_tokens],
        "counted": client.messages.count_tokens(model=model, messages=HELLO).input_tokens == prompt_tokens,
        "tools": raised(
            lambda: client.messages.create(**message, tools=[{"name": "weather", "input_schema": SCHEMA}])
        ),
        "unknown": raised(lambda: client.messages.create(**{**message, "model": "unknown"})),
        "broken": raised(read_broken),
    }


def litellm_calls(url: str, model: str, broken: str) -> Found:
    """LiteLLM: chat over OpenAI's API, Messages over Anthropic's, Responses, embeddings, errors."""
    import litellm

    litellm.suppress_debug_info = True
    chat: dict[str, Any] = {
        "model": f"openai/{model}", "messages": HELLO, "max_tokens": 5, "temperature": 0, "api_base": f"{url}/v1",
        "api_key": KEY, "max_retries": 0, "num_retries": 0,
    }  # fmt: skip
    messages = {**chat, "model": f"anthropic/{model}", "api_base": url}
    whole = litellm.completion(**chat)
    chunks = list(litellm.completion(**chat, stream=True))
    message = litellm.completion(**messages)
    options = {"api_base": f"{url}/v1", "api_key": KEY}
    response = litellm.responses(model=f"openai/{model}", input="hi", max_output_tokens=5, **options)

    def forced() -> list[Any]:
        chosen = {"type": "function", "function": {"name": "weather"}}
        answer = litellm.completion(**{**chat, "max_tokens": OBJECT_TOKENS}, tools=[TOOL], tool_choice=chosen)
        call = answer.choices[0].message.tool_calls[0].function
        return [call.name, is_city(call.arguments)]

    return {
        "forced": outcome(forced),
        "chat": [whole.model, whole.usage.completion_tokens],
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        == whole.choices[0].message.content,
        "message": [message.usage.completion_tokens, message.choices[0].finish_reason],
        "response": response.model,
        "embedding": outcome(
            lambda: len(litellm.embedding(model=f"openai/{model}", input=["hi"], **options).data)
        ),
        "tools": raised(lambda: litellm.completion(**chat, tools=[TOOL])),
        "unknown": raised(lambda: litellm.completion(**{**chat, "model": "openai/unknown"})),
        "unknown_message": raised(lambda: litellm.completion(**{**messages, "model": "anthropic/unknown"})),
        "broken": raised(
            lambda: list(litellm.completion(**{**chat, "model": f"openai/{broken}"}, stream=True))
        ),
    }


def langchain_calls(url: str, model: str, broken: str) -> Found:
    """LangChain's two packages: ``ChatOpenAI`` over chat and Responses, ``ChatAnthropic``, embeddings, errors."""
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    def chat(name: str = model, **more: Any) -> Any:
        return ChatOpenAI(
            model=name,
            base_url=f"{url}/v1",
            api_key=KEY,
            max_retries=0,
            stream_usage=True,
            **{"max_tokens": 5, "temperature": 0, **more},
        )

    def messages(name: str = model) -> Any:
        return ChatAnthropic(
            model=name, base_url=url, api_key=KEY, max_tokens=5, max_retries=0, model_kwargs=GREEDY
        )

    def forced() -> list[Any]:
        bound = chat(max_tokens=OBJECT_TOKENS).bind_tools([TOOL], tool_choice="weather")
        return [[call["name"], is_city(call["args"])] for call in bound.invoke("hi").tool_calls]

    def structured() -> bool:
        asked = chat(max_tokens=OBJECT_TOKENS).with_structured_output(SCHEMA, method="json_schema")
        return is_city(asked.invoke("hi"))

    whole, message = chat().invoke("Tell me about Paris."), messages().invoke("Tell me about Paris.")
    embeddings = OpenAIEmbeddings(
        model=model, base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=False
    )
    return {
        "chat": [whole.response_metadata["model_name"], whole.usage_metadata["output_tokens"]],
        "streamed": "".join(part.content for part in chat().stream("Tell me about Paris.")) == whole.content,
        "responses": chat(use_responses_api=True).invoke("hi").usage_metadata["output_tokens"],
        "message": message.usage_metadata["output_tokens"],
        "message_streamed": "".join(part.text for part in messages().stream("Tell me about Paris."))
        == message.content,
        "embedding": outcome(lambda: len(embeddings.embed_documents(["hi"]))),
        "tools": raised(lambda: chat().bind_tools([TOOL]).invoke("hi")),
        "forced": outcome(forced),
        "structured": outcome(structured),
        "unknown": raised(lambda: chat("unknown").invoke("hi")),
        "unknown_message": raised(lambda: messages("unknown").invoke("hi")),
        "broken": raised(lambda: list(chat(broken).stream("hi"))),
    }


CALLS = {
    "openai": openai_calls,
    "anthropic": anthropic_calls,
    "litellm": litellm_calls,
    "langchain": langchain_calls,
}

if __name__ == "__main__":
    print(json.dumps(CALLS[sys.argv[1]](*sys.argv[2:5])))
