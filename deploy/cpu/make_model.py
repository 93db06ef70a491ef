"""Makes a tiny model of gpt-oss's architecture that answers real Harmony chats. Nothing is downloaded.

usage: make_model.py FOLDER     (with an interpreter that has torch, transformers, tokenizers, openai_harmony or the
                                 oss-harmony that vLLM brings)

It has gpt-oss's full vocabulary (vLLM renders its chats with Harmony's own token ids) and two small layers whose
attention and experts add nothing, so that the next token follows from the last one alone: a Markov chain. It opens a
channel and says " one two three … winter". Then it begins again, or ends the message, or the answer: at temperature 1
with a chance of 45, 27 and 27 %, at temperature 0 it begins again for ever, so that a caller of any API can have a
short answer or an endless one. An even coin chooses between reasoning and final channel. From any other token it goes
on with " one". About 104 MB on disk.
"""
# ruff: noqa: INP001, S106 - a script; what S106 takes for passwords are token names

import sys
import sysconfig
from itertools import pairwise
from pathlib import Path

import openai_harmony
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

CONTEXT = 4096
VOCABULARY = 201088  # gpt-oss's
HIDDEN = 128
CONFIDENCE = 24.0  # logit of a successor; two of them share the probability evenly
PREFERENCE = 0.5  # what is added to that of beginning again
WORDS = (
    " one two three four five six seven eight nine ten red green blue black white"
    " north south east west spring summer autumn winter"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- elif message['content'] %}{%- for part in message['content'] %}{{- part['text'] or '' }}{%- endfor %}"
    "{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer for /v1/completions and /tokenize, trained on Python's own library."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(text) for text in texts], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        model_max_length=CONTEXT,
    )
    fast.chat_template = TEMPLATE
    return fast


def make_successors() -> tuple[dict[int, list[int]], int]:
    """Token → the tokens that may follow it, for those of the chain; and what follows all the others."""
    encoding = openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)

    def tokens(text: str) -> list[int]:
        return encoding.encode(text, allowed_special="all")

    start, assistant, channel, analysis, final, message, end, stop = (
        tokens(name)[0]
        for name in (
            "<|start|>", "assistant", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|return|>",
        )
    )  # fmt: skip
    words = list(dict.fromkeys(tokens(WORDS)))
    chain = {
        start: [assistant],
        assistant: [channel],
        channel: [analysis, final],
        analysis: [message],
        final: [message],
        message: [words[0]],
        **{word: [following] for word, following in pairwise(words)},
        words[-1]: [words[0], end, stop],
        end: [start],
        stop: [start],
    }
    return chain, words[0]


def make_weights(successors: dict[int, list[int]], after_others: int) -> GptOssForCausalLM:
    """The chain as weights: the embedding is one-hot by token, the output layer names the successors."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=128,
        max_position_embeddings=CONTEXT,
        initial_context_length=CONTEXT,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
        bos_token_id=199998,
        eos_token_id=200002,
        pad_token_id=199999,
        dtype="bfloat16",
    )
    model = GptOssForCausalLM(config).to(torch.bfloat16)
    place = {token: index for index, token in enumerate(successors)}
    anything_else = HIDDEN - 1
    if len(place) > anything_else:
        raise ValueError(f"{len(place)} tokens do not fit into {HIDDEN} dimensions")
    scale = HIDDEN**-0.5  # of the final norm, for a one-hot vector
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weights.zero_()
            elif name.endswith("norm.weight"):
                weights.fill_(1.0)
        embedding, output = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        output.zero_()
        embedding[:, anything_else] = 1.0
        for token, index in place.items():
            embedding[token, anything_else] = 0.0
            embedding[token, index] = 1.0
            for following in successors[token]:
                output[following, index] = CONFIDENCE * scale
            if len(successors[token]) > 2:
                output[successors[token][0], index] = (CONFIDENCE + PREFERENCE) * scale
        output[after_others, anything_else] = CONFIDENCE * scale
    return model


def main(folder: Path) -> None:
    """Write tokenizer and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save_pretrained(folder)
    logging.disable_progress_bar()
    make_weights(*make_successors()).save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
