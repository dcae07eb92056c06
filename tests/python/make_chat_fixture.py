# SPDX-License-Identifier: Apache-2.0
"""Writes tests/capture/fixtures/chat_templates.json: conversations as the models' own templates write them.

    make_chat_fixture.py FOLDER          what tests/fetch_vocabularies prints; needs jinja2

Templates are rendered as transformers' apply_chat_template does, with the begin and end tokens <s> and </s>, an opened
answer and enable_thinking=False. A template of the archive is named; one that is not in it stands here in short, as its
model card writes turns. A conversation that a template refuses is left out.
"""
import json
import pathlib
import sys

import jinja2.ext
import jinja2.sandbox

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "Hi there")],
    [("user", "Hi"), ("assistant", "Yes?"), ("user", "What is 2 + 2?\n\nSay it.")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "5")],
    [("user", "  spaced \n")],
]

# Of the archive: the family that kvscope must recognise, or none where it must refuse by this name.
SHIPPED = {
    "Qwen-Qwen2.5-7B-Instruct": "chatml", "Qwen-Qwen3-0.6B": "chatml", "meta-llama-Llama-3.1-8B-Instruct": "llama-3.1",
    "meta-llama-Llama-3.2-3B-Instruct": "llama-3.1", "meta-llama-Llama-3.3-70B-Instruct": "llama-3.1",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-tekken", "google-gemma-2-2b-it": "gemma",
    "microsoft-Phi-3.5-mini-instruct": "phi-3",
}
REFUSED = {
    "HuggingFaceTB-SmolLM3-3B": "smollm3", "openai-gpt-oss-120b": "gpt-oss", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek", "ibm-granite-granite-3.3-2B-Instruct": "", "google-gemma-4-31B-it": "",
}

SYSTEM_FIRST = "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}"
WRITTEN = {
    "QwQ, which always thinks": ("chatml", "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n<think>\\n' }}"),
    "Llama 2": ("llama-2", SYSTEM_FIRST + "{% for message in messages %}{% if message['role'] == 'user' %}{% set text = message['content'] %}{% if loop.first and system_message is defined %}{% set text = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + text %}{% endif %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "Llama 3": ("llama-3", "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "Mistral 7B v0.1, without a system text": ("mistral", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}{% endfor %}"),
    "Mistral 7B v0.2": ("mistral-v1", SYSTEM_FIRST + "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- if loop.first and system_message is defined %}{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}{%- else %}{{- ' ' + message['content'] + eos_token}}{%- endif %}{%- endfor %}"),
    "Mistral 7B v0.3": ("mistral-v3", SYSTEM_FIRST + "{{- bos_token }}{%- for message in messages %}{%- if message[\"role\"] == \"user\" %}{%- if tools is defined %}{{- \"[AVAILABLE_TOOLS] [\" }}{%- endif %}{%- if loop.last and system_message is defined %}{{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}{%- else %}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}{%- endif %}{%- else %}{{- \" \" + message[\"content\"]|trim + eos_token}}{%- endif %}{%- endfor %}"),
    "Mistral Large 2411": ("mistral-v7", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"),
    "Mistral Small 2501, without its default system text": ("mistral-v7-tekken", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"),
    "Gemma 3": ("gemma", SYSTEM_FIRST + "{{ bos_token }}{%- for message in messages -%}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}{%- if loop.first and system_message is defined -%}{{ system_message + '\n\n' }}{%- endif -%}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}{{ '<start_of_turn>model\n' }}"),
    "Phi-3 medium": ("phi-3", "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif message['role'] == 'assistant' %}{{message['content'] + '<|end|>' + '\n'}}{% else %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"),
    "Phi-4-mini": ("phi-4-mini", "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"),
    "Phi-4": ("phi-4", "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"),
    "Zephyr": ("zephyr", "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
}


class Refused(Exception):
    """The template refuses the conversation."""


def rendered(template, turns):
    def raise_exception(message):
        raise Refused(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    messages = [{"role": role, "content": text} for role, text in turns]
    return environment.from_string(template).render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True, enable_thinking=False)


def cases(template):
    for turns in CONVERSATIONS:
        try:
            yield {"turns": turns, "text": rendered(template, turns)}
        except Refused:
            pass


def main():
    folder = pathlib.Path(sys.argv[1]) / "templates"
    entries = [{"file": name, "family": family, "cases": list(cases((folder / f"{name}.jinja").read_text(encoding="utf-8")))} for name, family in SHIPPED.items()]
    entries += [{"file": name, "refused": family} for name, family in REFUSED.items()]
    entries += [{"name": name, "family": family, "template": template, "cases": list(cases(template))} for name, (family, template) in WRITTEN.items()]
    output = REPOSITORY / "tests/capture/fixtures/chat_templates.json"
    output.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(output, len(entries), "templates", sum(len(entry.get("cases", [])) for entry in entries), "conversations", output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
