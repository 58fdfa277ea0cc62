"""A fixture in the published format with tiny random weights, its figures computed straight on.

No padding, no batches, none of edje's modules: one pair at a time from the tensors by the
reference's names, through transformers' own BERT. It has what the recorded fixture lacks: a caption
that must be cut, LayerNorm epsilon and positions that matter.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForMaskedLM

from tests.tiny.encoders import encoder_config
from tests.tiny.towers import save_siglip
from tests.tiny.words import CLS, MASK, SEP, WORDS, tiny_tokenizer

CAPTIONS = [
    "red star",
    " ".join(WORDS[row % 10] for row in range(70)),  # 70 word pieces: 61 fit beside an image
    "small blue circle",
    "green",
]
NUM_TOKENS, WIDTH, HEADS, EPSILON = 4, 32, 4, 0.05  # of the vision tower
VOCABULARY, LANGUAGE_WIDTH, HIDDEN = 15, 24, 20
COMPRESSED = 2
BERT = encoder_config(
    vocab_size=VOCABULARY,
    hidden_size=LANGUAGE_WIDTH,
    intermediate_size=48,
    max_position_embeddings=64 + COMPRESSED,
)


def write_fixture(folder: Path) -> Path:
    """Folders, two checkpoints, captions and figures, laid out as the recorded fixture is."""
    torch.manual_seed(0)
    BertForMaskedLM(BERT).save_pretrained(folder / "language_model")
    tiny_tokenizer().save_pretrained(folder / "language_model")
    save_siglip(folder / "vision_tower")
    config = folder / "vision_tower" / "config.json"
    fields = json.loads(config.read_text())
    fields["vision_config"]["layer_norm_eps"] = EPSILON
    config.write_text(json.dumps(fields))
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))
    states = {"local": reference_state(None), "compressed": reference_state(COMPRESSED)}
    towers = load_file(folder / "vision_tower" / "model.safetensors")
    for name, state in states.items():
        for tower, tensor in towers.items():
            state[f"clip.{tower}"] = tensor
            if tower.startswith("vision_model."):
                state[f"vision_encoder.{tower.removeprefix('vision_model.')}"] = tensor
        torch.save({"model": state, "epoch": 3, "config": {}}, folder / f"{name}_checkpoint.pth")
    save_file(figures(states), folder / "expected.safetensors")
    return folder


def reference_state(num_compressed: int | None) -> dict[str, Tensor]:
    """Random weights by the reference's names; no two tensors alike but the tied ones."""
    tokens = num_compressed or NUM_TOKENS
    config = type(BERT).from_dict(
        BERT.to_dict() | {"vocab_size": VOCABULARY + 1, "max_position_embeddings": 64 + tokens}
    )
    state = {f"language_model.{n}": t for n, t in BertForMaskedLM(config).state_dict().items()}
    d, h, w = WIDTH, HIDDEN, LANGUAGE_WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "classification_head.0.dense.weight": (w, w),
        "classification_head.0.dense.bias": (w,),
        "classification_head.1.weight": (1, w),
        "classification_head.1.bias": (1,),
        "text_projection.weight": (WIDTH, w),
        "text_projection.bias": (WIDTH,),
    }
    if num_compressed is None:
        adapter = {"0.weight": (h, d), "0.bias": (h,), "2.weight": (w, h), "2.bias": (w,)}
    else:
        linear = {"key": (d, d), "value": (d, d), "attention.out_proj": (d, d)}
        linear |= {"mlp.fc1": (h, d), "mlp.fc2": (d, h), "projection": (w, d)}
        adapter = {f"{name}.weight": shape for name, shape in linear.items()}
        adapter |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
        adapter |= {"query": (1, num_compressed, d)}
        adapter |= {"attention.in_proj_weight": (3 * d, d), "attention.in_proj_bias": (3 * d,)}
        adapter |= {"layernorm.weight": (d,), "layernorm.bias": (d,)}
    shapes |= {f"vision_projection.{name}": shape for name, shape in adapter.items()}
    state = {name: 0.4 * torch.randn(tensor.shape) for name, tensor in state.items()}
    state |= {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    words = state["language_model.bert.embeddings.word_embeddings.weight"]
    state["text_embeddings.weight"] = words
    state["language_model.cls.predictions.decoder.weight"] = words
    bias = state["language_model.cls.predictions.bias"]
    state["language_model.cls.predictions.decoder.bias"] = bias
    return state


def figures(states: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Everything that the recorded fixture gives, under the same names."""
    count = len(CAPTIONS)
    found = {
        "vision_tokens": torch.randn(count, NUM_TOKENS, WIDTH),
        "image_embedding": F.normalize(torch.randn(count, WIDTH), dim=1),
        "text_embedding": F.normalize(torch.randn(count, WIDTH), dim=1),
        "negative_images": torch.zeros(count, 2, dtype=torch.long),
        "negative_captions": torch.zeros(count, 2, dtype=torch.long),
    }
    for row in range(count):
        others = [other for other in range(count) if other != row]
        text, image = found["text_embedding"], found["image_embedding"]
        by_image = sorted(others, key=lambda o: -float(text[row] @ image[o]))
        by_caption = sorted(others, key=lambda o: -float(text[o] @ image[row]))
        found["negative_images"][row] = torch.tensor(by_image[:2])
        found["negative_captions"][row] = torch.tensor(by_caption[:2])
    for name, state in states.items():
        project = compress if "vision_projection.query" in state else local
        found[f"{name}.projected_tokens"] = project(state, found["vision_tokens"])
        found |= {f"{name}.{key}": tensor for key, tensor in losses(state, name, found).items()}
    teacher, student = (listed(found[f"{name}.logits_caption_by_image"], found) for name in states)
    matching = [-logits.log_softmax(1)[:, 0].mean() for logits in student]
    found["compressed.itm_loss"] = sum(matching) / 2
    parts = [(t[:, :1], s[:, :1]) for t, s in zip(teacher, student, strict=True)][:1]
    parts += [(t[:, 1:], s[:, 1:]) for t, s in zip(teacher, student, strict=True)]
    binary = [
        -(t.sigmoid() * s.sigmoid().log() + (-t).sigmoid() * (-s).sigmoid().log()).mean()
        for t, s in parts
    ]
    found["compressed.distillation_loss"] = sum(binary) / 3
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


def listed(logits: Tensor, found: dict[str, Tensor]) -> list[Tensor]:
    """Caption-by-image logits as lists of [positive, negatives], one per direction."""
    own = torch.arange(len(logits))[:, None]
    images = torch.cat([own, found["negative_images"]], dim=1)
    captions = torch.cat([own, found["negative_captions"]], dim=1)
    return [logits[own, images], logits[captions, own]]


def losses(state: dict[str, Tensor], name: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits of all pairs and the losses of single pairs, of one checkpoint."""
    bert = language_model(state)
    visual, targets = found[f"{name}.projected_tokens"], found["text_embedding"]
    count, length = len(CAPTIONS), 63 + visual.shape[1] + 1
    logits = torch.zeros(count, count)
    ids, mask, labels = (torch.zeros(count, length, dtype=torch.long) for _ in range(3))
    labels -= 100
    masked, recovered = [], []
    for row, caption in enumerate(CAPTIONS):
        pieces = [5 + WORDS.index(word) for word in caption.split()]
        text = [CLS, *pieces[:61], SEP]
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text) + visual.shape[1] + 1] = 1
        for image in range(count):
            state_of_cls = read(bert, text, visual[image])[0]
            dense = linear(state, "classification_head.0.dense", state_of_cls).tanh()
            logits[row, image] = linear(state, "classification_head.1", dense)[0]
        hidden = read(bert, [CLS, *pieces[:62], SEP], visual[:0, 0])[0]
        recovered.append(
            F.cosine_similarity(linear(state, "text_projection", hidden), targets[row], 0)
        )
        chosen = list(range(1, len(text) - 1, 2))
        labels[row, chosen] = ids[row, chosen]
        hidden = read(bert, [MASK if at in chosen else i for at, i in enumerate(text)], visual[row])
        head = "language_model.cls.predictions"
        for at in chosen:
            dense = F.gelu(linear(state, f"{head}.transform.dense", hidden[at]))
            norm = f"{head}.transform.LayerNorm"
            scale, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
            dense = F.layer_norm(dense, (LANGUAGE_WIDTH,), scale, shift, 1e-12)
            masked.append(-linear(state, f"{head}.decoder", dense).log_softmax(0)[text[at]])
    return {
        "logits_caption_by_image": logits,
        "text_recovery_loss": 1 - torch.stack(recovered).mean(),
        "input_ids": ids,
        "inputs_attention_mask": mask,
        "mlm_labels": labels,
        "mlm_loss": torch.stack(masked).mean(),
    }


def language_model(state: dict[str, Tensor]) -> BertForMaskedLM:
    """Transformers' BERT with the checkpoint's weights."""
    prefix = "language_model."
    words = state[f"{prefix}bert.embeddings.word_embeddings.weight"]
    positions = state[f"{prefix}bert.embeddings.position_embeddings.weight"]
    sizes = {"vocab_size": len(words), "max_position_embeddings": len(positions)}
    bert = BertForMaskedLM(type(BERT).from_dict(BERT.to_dict() | sizes))
    bert.load_state_dict(
        {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    )
    return bert.eval().requires_grad_(False)


def read(bert: BertForMaskedLM, text: list[int], visual: Tensor) -> Tensor:
    """Last hidden states of `text v_1 … v_m [SEP]`, or of the text alone where m = 0."""
    table = bert.bert.embeddings.word_embeddings.weight
    parts = [table[text]]
    if visual.numel():
        parts += [visual, table[[SEP]]]
    sequence = torch.cat(parts)[None]
    length = sequence.shape[1]
    return bert.bert(
        inputs_embeds=sequence,
        token_type_ids=(torch.arange(length) >= len(text)).long()[None],
        position_ids=torch.arange(length)[None],
    ).last_hidden_state[0]


def linear(state: dict[str, Tensor], name: str, vector: Tensor) -> Tensor:
    return vector @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def local(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Linear, GELU, Linear of every token."""
    return linear(
        state, "vision_projection.2", F.gelu(linear(state, "vision_projection.0", tokens))
    )


def compress(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The paper's equations, head by head."""
    name = "vision_projection"
    keys, values = (linear(state, f"{name}.{part}", tokens) for part in ("key", "value"))
    weights = state[f"{name}.attention.in_proj_weight"].split(WIDTH)
    biases = state[f"{name}.attention.in_proj_bias"].split(WIDTH)
    inputs = (state[f"{name}.query"].expand(len(tokens), -1, -1), keys, values)
    q, k, v = (x @ w.T + b for x, w, b in zip(inputs, weights, biases, strict=True))
    size = WIDTH // HEADS
    heads = []
    for start in range(0, WIDTH, size):
        part = slice(start, start + size)
        chances = (q[..., part] @ k[..., part].transpose(1, 2) / size**0.5).softmax(-1)
        heads.append(chances @ v[..., part])
    pooled = linear(state, f"{name}.attention.out_proj", torch.cat(heads, dim=-1))
    scale, shift = state[f"{name}.layernorm.weight"], state[f"{name}.layernorm.bias"]
    hidden = F.layer_norm(pooled, (WIDTH,), scale, shift, EPSILON)
    hidden = linear(state, f"{name}.mlp.fc2", F.gelu(linear(state, f"{name}.mlp.fc1", hidden)))
    return linear(state, f"{name}.projection", pooled + hidden)
