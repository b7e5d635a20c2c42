"""Random content parts with decoys: the router counts the text, or sees the image, that vLLM reads."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router_service.routing.features import extract_features

CHAT = "/v1/chat/completions"
TEXT_FIELDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
IMAGES = ("image_url", "input_image", "image_embeds", "image_pil")
URL = {"url": "data:,a"}
MEDIA = {
    "image_url": URL,
    "image_embeds": "e",
    "audio_url": URL,
    "video_url": URL,
    "input_audio": {"data": ""},
}
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*TEXT_FIELDS, "image_url", "input_image", "audio_url", "video_url", None]),
        "uuid": st.sampled_from([None, "", "u"]),
        **{name: st.text("ab", min_size=1, max_size=5) for name in ("text", "refusal", "thinking")},
        **{name: st.just(value) for name, value in MEDIA.items()},
    },
)


def read_by_vllm(part: dict[str, Any]) -> tuple[str, str]:
    """Return the kind and the text that vLLM 0.32 reads (`vllm/renderers/chat_utils.py`); "" if it refuses the part."""
    kind, uuid = part.get("type"), part.get("uuid")
    if kind is not None and uuid is None:
        return ("text", part.get(TEXT_FIELDS[kind], "")) if kind in TEXT_FIELDS else (kind, "")
    for key in ("image_url", "image_embeds", "audio_url", "input_audio", "video_url"):
        if key in part:
            return key, ""
    return "", ""


@given(PARTS)
def test_a_part_is_read_as_vllm_reads_it(part: dict[str, Any]) -> None:
    kind, text = read_by_vllm(part)
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    features = extract_features(body, CHAT, {})
    if kind == "text":
        assert (features.prompt_chars, features.has_images) == (len(text), False)
    elif kind:
        assert features.has_images is (kind in IMAGES)
