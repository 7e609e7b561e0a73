"""T5's sentinels, <extra_id_0> and so on, as pieces of a sentencepiece model.

T5 was trained with them as its last ids (32099 down to 32000). The spiece.model files on the hub lack them:
transformers adds them around sentencepiece, takes the spaces beside them away, and begins a word after each. A
sentencepiece model that has them as pieces of its own leaves the text as it is, so a space before a sentinel stays as a
lone "▁" (id 3), and only a space begins a word after one:

    a fine <extra_id_0> day     transformers ▁ a ▁fine <extra_id_0> ▁day     sentencepiece ▁ a ▁fine ▁ <extra_id_0> ▁day
    a fine<extra_id_0> day      both ▁ a ▁fine <extra_id_0> ▁day

transformers 5 saves no spiece.model. From the tokenizer.json that it saves the model is rebuilt where sentencepiece has
the like of all that is in there: unigram scores, a table of characters, words split at spaces. Texts without sentinels
get the same ids, but where two ways to cut a word score the same (sentencepiece and transformers round differently).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5enc.checkpoint.folders import read_json
from t5enc.errors import CheckpointError, ConfigError, OutputError
from t5enc.machine.disks import sync

SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")
LISTS = ("extra_special_tokens", "additional_special_tokens")
# Normalizers that may follow the table of characters; what they do sentencepiece does, too.
SPACES = (
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedSentinels:
    """How many there are, the id of <extra_id_0>, and the size of the vocabulary with them."""

    count: int
    first_id: int
    pieces: int


def add_sentinels(
    tokenizer: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    count: int | None = None,
    overwrite: bool = False,
) -> AddedSentinels:
    """Write a sentencepiece model with <extra_id_N> as its last pieces, <extra_id_0> the very last, as T5 numbers them.

    `tokenizer` is a .model file, a folder with a spiece.model, or one with a tokenizer.json only; `count` is needed
    where it names no sentinels. Raises CheckpointError for a tokenizer that no sentencepiece model equals, or that has
    its sentinels elsewhere; OutputError where `output` exists.
    """
    source, target = Path(tokenizer).expanduser(), Path(output).expanduser()
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: expected no such file (or overwrite), got one")
    settings = _read_settings(source / "tokenizer_config.json")
    model = _open_model(source, settings)
    held = _take_sentinels(model, source)
    wanted = held or _choose_count(_list_named(settings, source), count, source)
    if held and count not in (None, held):
        raise ConfigError(f"count: expected none or the {held} sentinels that {source} has, got {count}")
    for number in reversed(range(wanted)):
        model.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=model.SentencePiece.USER_DEFINED)
    model.trainer_spec.vocab_size = len(model.pieces)
    _check_ids(model, _list_ids(source, settings), source)
    _write(target, model.SerializeToString())
    return AddedSentinels(count=wanted, first_id=len(model.pieces) - 1, pieces=len(model.pieces))


def _read_settings(path: Path) -> dict[str, Any]:
    """An empty dictionary where there is no such file."""
    return read_json(path) if path.is_file() else {}


def _open_model(source: Path, settings: Mapping[str, Any]) -> Any:
    """The model of a file or folder, parsed or rebuilt."""
    for path in (source, source / "spiece.model"):
        if path.is_file():
            return _parse_model(path)
    if (source / "tokenizer.json").is_file():
        return rebuild_model(source / "tokenizer.json", settings)
    raise CheckpointError(f"{source}: expected a .model file, or a folder with spiece.model or tokenizer.json")


def _parse_model(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    content, model = path.read_bytes(), ModelProto()
    try:
        SentencePieceProcessor().LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: expected a sentencepiece model, got {len(content)} bytes: {error}") from error
    model.ParseFromString(content)
    return model


def _take_sentinels(model: Any, source: Path) -> int:
    """Take sentinels off the end of a model that has them, and count them; they must be numbered as T5's are."""
    names = [piece.piece for piece in model.pieces if SENTINEL.fullmatch(piece.piece)]
    expected = [f"<extra_id_{number}>" for number in reversed(range(len(names)))]
    end = len(model.pieces) - len(names)
    if names and [piece.piece for piece in model.pieces[end:]] != expected:
        raise CheckpointError(
            f"{source}: expected no sentinels, or <extra_id_{len(names) - 1}> down to <extra_id_0> at the end, "
            f"got {names[0]} and {len(names) - 1} more"
        )
    del model.pieces[end:]
    return len(names)


def _list_named(settings: Mapping[str, Any], source: Path) -> int:
    """How many sentinels a tokenizer_config.json names."""
    listed = [names for names in map(settings.get, LISTS) if isinstance(names, list)]
    if not listed:
        return int(settings.get("extra_ids") or 0)
    found = [SENTINEL.fullmatch(_content(token)) for names in listed for token in names]
    numbers = sorted({int(match[1]) for match in found if match})
    if numbers != list(range(len(numbers))):
        raise CheckpointError(f"{source}: expected sentinels numbered from 0 on, got {numbers[:10]}")
    return len(numbers)


def _content(token: object) -> str:
    """A token is its text, or a description that holds it."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _choose_count(named: int, count: int | None, source: Path) -> int:
    if named and count not in (None, named):
        raise ConfigError(f"count: expected none or {named}, as {source} has it, got {count}")
    if not (named or count):
        raise ConfigError(f"count: expected a number, since {source} names no sentinels")
    return named or count or 0


def _list_ids(source: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Ids of added tokens, as far as the files of a folder tell them."""
    described = settings.get("added_tokens_decoder") or {}
    added = _read_settings(source / "tokenizer.json").get("added_tokens") or []
    return {_content(token): int(index) for index, token in described.items()} | {
        token["content"]: token["id"] for token in added
    }


def _check_ids(model: Any, known: Mapping[str, int], source: Path) -> None:
    """Sentinels must have the ids that the tokenizer gave them, or a model would see others."""
    for index, piece in enumerate(model.pieces):
        if SENTINEL.fullmatch(piece.piece) and known.get(piece.piece, index) != index:
            raise CheckpointError(f"{source}: {piece.piece}: expected id {index}, got {known[piece.piece]}")


def rebuild_model(path: Path, settings: Mapping[str, Any]) -> Any:
    """The sentencepiece model (a ModelProto) that a tokenizer.json was made from.

    Raises CheckpointError naming the first thing in it that sentencepiece has not.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    parts = _read_settings(path)
    unigram = parts.get("model") or {}
    _expect(path, "model.type", unigram.get("type"), "Unigram")
    _expect(path, "model.byte_fallback", unigram.get("byte_fallback", False), False)
    charsmap = _read_charsmap(path, parts.get("normalizer") or {})
    _check_words(path, parts.get("pre_tokenizer") or {})
    model = ModelProto()
    kinds = _find_kinds(path, parts, model.SentencePiece)
    for index, (piece, score) in enumerate(unigram["vocab"]):
        model.pieces.add(piece=piece, score=score, type=kinds.get(index, model.SentencePiece.NORMAL))
    _describe(model, unigram["unk_id"], settings)
    model.normalizer_spec.name = "rebuilt"
    model.normalizer_spec.precompiled_charsmap = charsmap
    return model


def _expect(path: Path, name: str, found: object, expected: object) -> None:
    if found != expected:
        raise CheckpointError(f"{path}: {name}: expected {expected!r}, which sentencepiece has, got {found!r}")


def _read_charsmap(path: Path, normalizer: Mapping[str, Any]) -> bytes:
    first, *rest = normalizer.get("normalizers", [normalizer])
    _expect(path, "normalizer", first.get("type"), "Precompiled")
    for step in rest:
        bare = {name: value for name, value in step.items() if name != "content"}
        if bare not in SPACES:
            raise CheckpointError(f"{path}: normalizer: expected a step that strips or joins spaces, got {step}")
    return base64.b64decode(first["precompiled_charsmap"])


def _check_words(path: Path, splitter: Mapping[str, Any]) -> None:
    *rest, last = splitter.get("pretokenizers", [splitter])
    for step in rest:
        _expect(path, "pre_tokenizer", step.get("type"), "WhitespaceSplit")
    _expect(path, "pre_tokenizer", (last.get("type"), last.get("replacement")), ("Metaspace", "▁"))
    prepends = last.get("prepend_scheme", "always" if last.get("add_prefix_space") else "never")
    _expect(path, "pre_tokenizer.prepend_scheme", prepends, "always")
    _expect(path, "pre_tokenizer.split", last.get("split", True), True)


def _find_kinds(path: Path, parts: Mapping[str, Any], kind: Any) -> dict[int, int]:
    """Ids of pieces that are no plain text, and what they are."""
    vocabulary = parts["model"]["vocab"]
    kinds = {}
    for token in parts.get("added_tokens") or []:
        index = token["id"]
        if index >= len(vocabulary) or vocabulary[index][0] != token["content"]:
            raise CheckpointError(f"{path}: {token['content']}: expected an added token of the vocabulary, got another")
        kinds[index] = kind.CONTROL if token["special"] else kind.USER_DEFINED
    return kinds | {parts["model"]["unk_id"]: kind.UNKNOWN}


def _describe(model: Any, unknown: int, settings: Mapping[str, Any]) -> None:
    """What a trainer would have noted: the kind of model, and the names and ids of its control pieces."""
    places = {piece.piece: index for index, piece in enumerate(model.pieces)}
    trainer = model.trainer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.unk_id, trainer.unk_piece = unknown, model.pieces[unknown].piece
    for name, default in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        piece = _content(settings.get(f"{name}_token") or default)
        setattr(trainer, f"{name}_piece", piece)
        setattr(trainer, f"{name}_id", places.get(piece, -1))


def _write(target: Path, content: bytes) -> None:
    """Whole or not at all."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        aside.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
