"""The usual calls of one client package, as an application makes them.

Runs in the environment of `requirements/clients.lock`.

Usage: ``calls.py PACKAGE URL MODEL BROKEN``, with the key in ``PLATFORM_KEY``. ``MODEL`` has a slash in its name, ``BROKEN``
is a model whose streams break off. Prints one JSON object with the result of each call.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

KEY = os.environ["PLATFORM_KEY"]
HELLO = [{"role": "user", "content": "Tell me about Paris."}]
SCHEMA: dict[str, Any] = {
    "title": "city",
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": SCHEMA}}
AUDIO: Any = ("speech.wav", b"RIFF")
PIXEL = "iVBORw0KGgo="
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


def raised(call: Callable[[], Any]) -> str:
    """Return the name of the exception that ``call`` raises, "" for none."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


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
    chat: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 5}
    whole = client.chat.completions.create(**chat)
    completion = client.completions.create(model=model, prompt="Paris is", max_tokens=5)
    chunks = list(client.chat.completions.create(**chat, stream=True))
    events = [
        event.type
        for event in client.responses.create(model=model, input="hi", max_output_tokens=5, stream=True)
    ]
    heard = [
        chunk.model_dump()
        for chunk in client.audio.transcriptions.create(model=model, file=AUDIO, stream=True)
    ]
    agent = list(client.chat.completions.create(model=model, **AGENT_CHAT))
    agent_events = list(client.responses.create(model=model, **AGENT_RESPONSE))
    return {
        "agent": agent[-1].usage and agent[-1].usage.completion_tokens,
        "agent_response": agent_events[-1].response.usage.output_tokens,
        "request_id": bool(whole._request_id),
        "listed": [entry.id for entry in client.models.list()],
        "retrieved": client.models.retrieve(model).id,
        "chat": [whole.model, whole.usage and whole.usage.completion_tokens],
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content,
        "response": client.responses.create(model=model, input="hi", max_output_tokens=5).model,
        "response_stream": [events[0], events[-1]],
        "completion": completion.usage and completion.usage.completion_tokens,
        "embedding": len(client.embeddings.create(model=model, input="hi").data),
        "heard": [
            bool(client.audio.transcriptions.create(model=model, file=AUDIO).text),
            bool(client.audio.translations.create(model=model, file=AUDIO).text),
        ],
        "heard_stream": [heard[-1]["object"], heard[-1]["model"]],
        "tools": raised(lambda: client.chat.completions.create(**chat, tools=[TOOL])),
        "structured": raised(
            lambda: client.chat.completions.create(
                **chat,
                response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}},
            )
        ),
        "unknown": raised(lambda: client.chat.completions.create(**{**chat, "model": "unknown"})),
        "broken": raised(
            lambda: list(client.chat.completions.create(**{**chat, "model": broken}, stream=True))
        ),
        "broken_response": raised(
            lambda: list(client.responses.create(model=broken, input="hi", stream=True))
        ),
    }


def anthropic_calls(url: str, model: str, broken: str) -> Found:
    """Anthropic's own package: messages, streams, token counts, errors."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=60)
    message: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 5}
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

    with client.beta.messages.stream(model=model, **AGENT_MESSAGE) as stream:
        agent = stream.get_final_message()
    return {
        "agent": agent.usage.output_tokens,
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
        "model": f"openai/{model}", "messages": HELLO, "max_tokens": 5, "api_base": f"{url}/v1", "api_key": KEY,
        "max_retries": 0, "num_retries": 0,
    }  # fmt: skip
    messages = {**chat, "model": f"anthropic/{model}", "api_base": url}
    whole = litellm.completion(**chat)
    chunks = list(litellm.completion(**chat, stream=True))
    message = litellm.completion(**messages)
    options = {"api_base": f"{url}/v1", "api_key": KEY}
    response = litellm.responses(model=f"openai/{model}", input="hi", max_output_tokens=5, **options)
    embedding = litellm.embedding(model=f"openai/{model}", input=["hi"], **options)
    return {
        "chat": [whole.model, whole.usage.completion_tokens],
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        == whole.choices[0].message.content,
        "message": [message.usage.completion_tokens, message.choices[0].finish_reason],
        "response": response.model,
        "embedding": len(embedding.data),
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
            max_tokens=5,
            max_retries=0,
            stream_usage=True,
            **more,
        )

    def messages(name: str = model) -> Any:
        return ChatAnthropic(model=name, base_url=url, api_key=KEY, max_tokens=5, max_retries=0)

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
        "embedding": len(embeddings.embed_documents(["hi"])),
        "tools": raised(lambda: chat().bind_tools([TOOL]).invoke("hi")),
        "structured": raised(
            lambda: chat().with_structured_output(SCHEMA, method="json_schema").invoke("hi")
        ),
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
