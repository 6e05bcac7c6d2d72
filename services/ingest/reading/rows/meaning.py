"""The keys that change what a row means. Each is used, or refused by name; none is ignored.

A key is refused only while it says something: null, an empty string or list, a weight of 1 and
`true` leave a row as it is. Every other key, such as `id` or `source`, is harmless: it is left out
and counted.
"""

from services.ingest.reading.rows.fields import fold, names

# Which fields ask, and which answer. Of two that ask, an earlier one is preferred.
ASKED_KEYS = names(
    "instruction question query problem prompt user human q inputs instructions user_prompt "
    "user_message user_input question_text question_stem input_text"
)
INPUT_KEY = fold("input")
ANSWER_KEYS = names(
    "output completion response answer solution assistant bot a targets reply gpt final_answer "
    "answers outputs target assistant_response model_response generated_solution answer_text "
    "correct_answer best_answer code"
)
CALL_KEYS = names("tool_calls function_call")
CONVERSATIONS = names(
    "messages conversations conversation dialogue dialog turns chat msgs contents chat_messages "
    "data dialogues items chat_rounds"
)
TEXT_KEY = fold("text")
CONTENT_KEY = fold("content")  # an answer, where a thought stands beside it
# Beside `text`, these would be the answer to it.
BESIDE_TEXT = (*ANSWER_KEYS, *names("summary translation highlights headline sentiment labels"))

# ---- the keys of a row ---------------------------------------------------------------------------

SYSTEM_KEYS = names(
    "system system_prompt system_message system_instruction system_instructions sys_prompt sys"
)
TOOL_KEYS = names("tools functions tool_definitions available_tools")
TEMPLATE_KEYS = names("chat_template_kwargs template_kwargs")
SWITCH_KEYS = names("enable_thinking reasoning_effort")
HISTORY_KEYS = names("history")
CONTEXT_KEYS = names(
    "context contexts passage passages background document documents article paragraph story "
    "support evidence retrieved_context retrieved_contexts retrieved_documents ctx"
)
CHOICES_KEYS = names("choices options endings")
CHOICE_KEYS = names(
    "answer_key correct_option correct_choice answer_idx answer_index correct_answer_index "
    "correct_index gold cop"
)
LETTER_KEYS = names("a b c d e f g h i j")
WEIGHT_KEYS = names(
    "weight weights sample_weight example_weight row_weight loss_weight loss_scale train trainable "
    "train_on_turn loss loss_mask masked"
)
THOUGHT_KEYS = names(
    "reasoning_content reasoning thinking thought thoughts think chain_of_thought cot complex_cot "
    "rationale reasoning_text thinking_content reasoning_trace reasoning_traces "
    "thinking_trajectory thinking_trajectories deepseek_thinking_trajectory "
    "gemini_thinking_trajectory thought_process reasoning_process think_content scratchpad "
    "inner_thoughts internal_thoughts"
)
CHOSEN_KEYS = names("chosen chosen_response chosen_messages chosen_conversations")
REJECTED_KEYS = names(
    "rejected rejected_response rejected_messages rejected_conversations rejected_answer "
    "rejected_output score_chosen score_rejected chosen_score rejected_score chosen_rating "
    "rejected_rating dispreferred non_preferred_output preferred_output response_rejected "
    "margin_of_preference"
)
COMPARED_KEYS = names(
    "preference preferences winner conversation_a conversation_b response_a response_b "
    "response_0 response_1 better_response_id safer_response_id output_1 output_2 "
    "responses_ranked ranking"
)
VERDICT_KEYS = names(
    "label labels kto_tag kto_label is_correct correct is_good desirable is_desirable thumbs_up "
    "is_accepted accepted preferred is_preferred"
)
MEDIA_KEYS = names(
    "image images image_path image_paths image_url image_urls image_file img imgs pixel_values "
    "picture pictures video videos video_path video_paths video_url audio audios audio_path "
    "audio_url audio_file speech media"
)
EXPORT_KEYS = names("mapping current_node")
TREE_KEYS = names("parent_id message_tree_id parent")
MASK_KEYS = names(
    "label_mask assistant_mask assistant_masks assistant_tokens_mask completion_mask token_mask "
    "mask input_ids segments mask_history train_on_inputs train_on_input train_on_prompt"
)

# ---- the keys of a turn --------------------------------------------------------------------------

TURN_FLAGS = names(
    "train train_on_turn training trainable is_trainable should_train loss compute_loss loss_mask "
    "learn supervised calculate_loss"
)
TURN_WEIGHTS = names("weight loss_weight loss_scale sample_weight")
TURN_MASKED = names(
    "masked is_masked mask no_loss ignore_loss mask_loss no_train skip_train skip_training "
    "exclude_from_loss"
)
TURN_DETAIL = names("train_detail training_detail train_details")
TURN_REFUSED = (*MEDIA_KEYS, *names("refusal reasoning_details encrypted_content parent_id"))

USED_IN_ROWS = (
    SYSTEM_KEYS,
    TOOL_KEYS,
    TEMPLATE_KEYS,
    SWITCH_KEYS,
    HISTORY_KEYS,
    CONTEXT_KEYS,
    CHOICES_KEYS,
    CHOICE_KEYS,
    WEIGHT_KEYS,
    THOUGHT_KEYS,
)
REFUSED_IN_ROWS = (
    CHOSEN_KEYS,
    REJECTED_KEYS,
    COMPARED_KEYS,
    VERDICT_KEYS,
    MEDIA_KEYS,
    MASK_KEYS,
)
OF_ROWS = frozenset(key for each in (*USED_IN_ROWS, *REFUSED_IN_ROWS) for key in each)
READ_KEYS = frozenset(
    (
        *ASKED_KEYS,
        INPUT_KEY,
        *ANSWER_KEYS,
        *CALL_KEYS,
        *CONVERSATIONS,
        TEXT_KEY,
        CONTENT_KEY,
        *BESIDE_TEXT,
        *LETTER_KEYS,
        *EXPORT_KEYS,
        *TREE_KEYS,
        *OF_ROWS,
    )
)


def is_read(name: str) -> bool:
    """Return whether a field of this name is read, used or refused; else it is harmless."""
    key = fold(name)
    return key in READ_KEYS or option_letter(key) is not None


def option_letter(key: str) -> str | None:
    """Return the letter or number of a folded name such as optiona, choice2 or opb, or None."""
    for prefix in ("option", "choice", "opt", "op", "sol", "ending"):
        rest = key.removeprefix(prefix)
        if rest != key and len(rest) == 1 and rest in "abcdefghij0123456789":
            return rest
    return None
