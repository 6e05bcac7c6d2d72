"""The names that popular formats give to speakers and to what they say."""

from services.ingest.reading.rows.fields import fold, names

ALIASES = {
    "system": "system developer sys",
    "user": "user human prompter customer client questioner instruction",
    "assistant": (
        "assistant gpt chatgpt model bot chatbot ai llm claude bard bing bing_chat gpt4 gpt-4 "
        "gpt-3.5-turbo agent answerer"
    ),
    "tool": (
        "tool function observation tool_response tool_result function_response function_result "
        "ipython environment"
    ),
    "calls": "function_call tool_call tool_calls function_calls",
}
ROLES = {fold(name): role for role, text in ALIASES.items() for name in text.split()}
# The names of fields in a turn that is named for its speakers, such as {"human": "…", "bot": "…"}.
SPEAKERS = names("system tool observation user human prompter assistant gpt bot chatbot chatgpt ai")
ROLE_KEYS = names("role from speaker author sender who")
CONTENT_KEYS = names("content value text message parts utterance mes")


def role_of(speaker: str) -> str | None:
    """Return the role of a speaker: system, user, assistant, tool or calls; None if unknown.

    `calls` is an assistant that calls tools and says nothing else.
    """
    return ROLES.get(fold(speaker))
