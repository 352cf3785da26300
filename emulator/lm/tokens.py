"""Examples as token ids and back, by a model folder's own tokenizer and chat template. Needs no torch."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (tokenizers is only partly typed)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from emulator.lm.chat import render
from emulator.lm.folder import chat_template, end_tokens, read_json, special_tokens
from runner.data.examples import Example
from runner.grpo.types import Completion


class Tokens:
    """Raises ValueError for a folder without an end token, OSError for one that can't be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        self._settings = read_json(folder / "tokenizer_config.json")
        self.end = end_tokens(folder)
        """Ids that end a completion."""

    def prompt(self, example: Example) -> str:
        """The example's text as it stands, or its messages through the folder's chat template.

        Raises ValueError for messages where the folder has no chat template or it refuses them.
        """
        if isinstance(example.prompt, str):
            return example.prompt
        template = chat_template(self._folder, self._settings)
        return render(template, example.prompt, **special_tokens(self._settings))

    def encode(self, example: Example, room: int) -> list[int]:
        """Ids of the prompt, at least one; a prompt longer than `room` loses its beginning."""
        text, begin = self.prompt(example), special_tokens(self._settings).get("bos_token")
        rendered = not isinstance(example.prompt, str) or (begin is not None and text.startswith(begin))
        ids = self._tokenizer.encode(text, add_special_tokens=not rendered).ids
        return ids[-room:] or [min(self.end)]

    def too_long(self, examples: Iterable[Example], room: int) -> int:
        """How many prompts `encode` would cut.

        A token is at least a byte, and what a chat template puts around messages depends on their roles: where the
        example with the longest messages of some roles has fewer bytes than there is room, all of these roles have.
        """
        alike: dict[tuple[str, ...], list[Example]] = {}
        for example in examples:
            alike.setdefault(_roles(example), []).append(example)
        suspects = [same for same in alike.values() if self._bytes(max(same, key=_written)) >= room]
        long = (example for same in suspects for example in same if self._bytes(example) >= room)
        return sum(len(self.encode(example, room + 1)) > room for example in long)

    def _bytes(self, example: Example) -> int:
        return len(self.prompt(example).encode())

    def encode_completion(self, text: str) -> list[int]:
        """Ids of a whole completion, the end token included."""
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, min(self.end)]

    def completion(self, tokens: Sequence[int]) -> Completion:
        ended = tokens[-1] in self.end
        text = self._tokenizer.decode(list(tokens[:-1] if ended else tokens), skip_special_tokens=True)
        finish = "eos" if ended else "length"
        return Completion(text=text, n_tokens=len(tokens), finish=finish, ids=tuple(tokens))


def _roles(example: Example) -> tuple[str, ...]:
    """Of its messages; none of a text."""
    return () if isinstance(example.prompt, str) else tuple(message["role"] for message in example.prompt)


def _written(example: Example) -> int:
    """Bytes of what the dataset gave for the prompt."""
    texts = [example.prompt] if isinstance(example.prompt, str) else [turn["content"] for turn in example.prompt]
    return sum(len(text.encode()) for text in texts)


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path}: {error}") from None
