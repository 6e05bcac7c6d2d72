"""Templates that know of tools and thoughts, small ones of the logic that each family has."""

# Hermes, Qwen2.5: calls as JSON between tags, behind the words; results as turns of the user.
QWEN25 = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}<|im_start|>assistant"
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}{% for c in m.tool_calls %}"
    '{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    "<|im_start|>user{% endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Llama 3.1, 3.2, 4: one call a turn, its arguments as `parameters`.
LLAMA31 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' + (call.arguments | tojson) + '}' }}"
    "<|eot_id|>{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n"
    "{{ m.content | tojson }}<|eot_id|>{% else %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)

# Mistral v3 and tekken: ids of nine letters and digits, in the call and in its result.
MISTRAL3 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + "
    "'[/INST]' }}{% elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS]["
    "{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}"
    "{% if c.id is not defined or c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
    "{% endif %}"
    "{{ ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last else '' }}{% endfor %}]"
    "{{ eos_token }}{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
    "{% endif %}"
    '{{ \'[TOOL_RESULTS]{"content": \' + m.content | string + \', "call_id": "\' + m.tool_call_id '
    "+ '\"}[/TOOL_RESULTS]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)

# DeepSeek R1-Distill: arguments are added to text; a turn calls only if its content is null; the
# prompt opens a thought that no turn shows. A single call is not closed.
DEEPSEEK_R1 = (
    "{% set ns = namespace(first=true, is_tool=false) %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.is_tool = false %}{{ '<|user|>' + m.content }}{% endif %}"
    "{% if m.role == 'assistant' and m.content is none %}{% set ns.is_tool = false %}"
    "{% for c in m.tool_calls %}{% if ns.first %}{{ '<|assistant|><|calls|><|call|>' + c.type + "
    "'<|sep|>' + c.function.name + '\n```json\n' + c.function.arguments + '\n```<|end_call|>' }}"
    "{% set ns.first = false %}{% else %}{{ '\n<|call|>' + c.type + '<|sep|>' + c.function.name + "
    "'\n```json\n' + c.function.arguments + '\n```<|end_call|><|end_calls|>' + eos_token }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' and m.content is not none %}"
    "{{ ('<|end_outputs|>' if ns.is_tool else '<|assistant|>') + m.content.split('</think>')[-1] "
    "+ eos_token }}{% set ns.is_tool = false %}{% endif %}"
    "{% if m.role == 'tool' %}{% set ns.is_tool = true %}{{ '<|output|>' + m.content }}{% endif %}"
    "{% endfor %}{% if ns.is_tool %}<|end_outputs|>{% endif %}"
    "{% if add_generation_prompt and not ns.is_tool %}<|assistant|><think>\n{% endif %}"
)

# DeepSeek V3.1: the prompt closes a thought; arguments are added to text.
DEEPSEEK_V3 = (
    "{% set ns = namespace(is_tool=false) %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.is_tool = false %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{% if not ns.is_tool %}<|assistant|></think>{% endif %}"
    "{% if m.tool_calls is defined %}{% set ns.is_tool = true %}"
    "{{ m.content if m.content is not none else '' }}<|calls|>{% for c in m.tool_calls %}"
    "{{ '<|call|>' + c.function.name + '<|sep|>' + c.function.arguments + '<|end_call|>' }}"
    "{% endfor %}<|end_calls|>{{ eos_token }}{% else %}"
    "{{ m.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% elif m.role == 'tool' %}{% set ns.is_tool = true %}{{ '<|output|>' + m.content }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.is_tool %}<|assistant|></think>{% endif %}"
)

# Kimi K2: a call shows its id alone, which must name the function.
KIMI = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|sep|>' }}"
    "{% if m.role == 'tool' %}{{ '## Return of ' + m.tool_call_id + '\n' }}{% endif %}"
    "{{ m.content if m.content is not none else '' }}"
    "{% if m.tool_calls %}<|calls|>{% for c in m.tool_calls %}"
    "{{ '<|call|>' + c.id + '<|sep|>' }}{{ c.function.arguments if c.function.arguments is string "
    "else c.function.arguments | tojson }}<|end_call|>{% endfor %}<|end_calls|>{% endif %}"
    "<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|sep|>{% endif %}"
)

# Gemma 4: the prompt holds an empty thought that a turn with calls does not show; a call's thought
# is read from a field, an answer's is cut out of the words.
GEMMA4 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if m.tool_calls %}{% if m.reasoning_content %}"
    "{{ '<|channel>thought\n' + m.reasoning_content + '<channel|>' }}{% endif %}"
    "{% for c in m.tool_calls %}{{ '<|tool_call>call:' + c.function.name + '{' }}"
    "{% for key, value in c.function.arguments | dictsort %}{{ key + ':' }}"
    "{{ '<|\"|>' + value + '<|\"|>' if value is string else value | tojson }}{% endfor %}"
    "}<tool_call|>{% endfor %}{% endif %}"
    "{% if m.content %}{{ m.content.split('<channel|>')[-1] | trim }}{% endif %}<turn|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{% if not enable_thinking | default(false) %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"
    "{% endif %}"
)

# GLM 4.5 and later: arguments key by key; the tool's turn begins with what ends the call.
GLM = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>"
    "{{ '\n<think>' + (m.reasoning_content or '') | trim + '</think>' }}"
    "{% if m.content %}{{ '\n' + m.content | trim }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>' + c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}"
    "{{ '\n<arg_key>' + k + '</arg_key>\n<arg_value>' }}"
    "{{ v if v is string else v | tojson }}</arg_value>{% endfor %}{{ '\n</tool_call>' }}"
    "{% endfor %}"
    "{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}<|observation|>"
    "{% endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# gpt-oss: thoughts and what is said beside a call have channels, and are dropped once a final
# answer follows; `thinking` is the field.
GPT_OSS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.tool_calls %}"
    "{% set later = namespace(final=false) %}{% for n in messages[loop.index:] %}"
    "{% if n.role == 'assistant' and not n.tool_calls %}{% set later.final = true %}{% endif %}"
    "{% endfor %}{% if later.final %}{% elif m.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + "
    "'<|end|>' }}{% elif m.content %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + "
    "m.content + '<|end|>' }}{% endif %}{% set c = m.tool_calls[0].function %}"
    "{{ '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' }}"
    "{{ c.arguments | tojson }}<|call|>{% else %}"
    "{% if 'thinking' in m and loop.last and not add_generation_prompt %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    "{% elif m.role == 'tool' %}{{ '<|start|>functions<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

# A template that adds the arguments to its text as Python writes them, if they are an object.
CARELESS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<|call|>{{ c.function.name }} {{ c.function.arguments }}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)

SPECIALS = (
    *("<think>", "</think>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<|user|>", "<|assistant|>", "<|observation|>", "<|calls|>", "<|call|>", "<|sep|>"),
    *("<|end_call|>", "<|end_calls|>", "<|output|>", "<|end_outputs|>", "<tool_call>"),
    *("</tool_call>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>"),
    *("<tool_call|>", '<|"|>', "<|start|>", "<|end|>", "<|return|>", "<|channel|>", "<|message|>"),
)
STOPS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|user|>",
    "<|observation|>",
    "<turn|>",
    "<|return|>",
    "<|call|>",
)
