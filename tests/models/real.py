"""Small models of transformers, peft and timm, from configurations without weights, and a problem for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from nestor.hparams import L2
from testbed.vision import peft, timm, transformers

N, CLASSES, TOKENS, LENGTH = 16, 3, 32, 6


def _bert() -> Any:
    config: Any = transformers.BertConfig  # its signature lacks what all configurations take
    return transformers.BertForSequenceClassification(
        config(
            vocab_size=TOKENS,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=CLASSES,
        )
    )


def cross_entropy(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    """Of the logits, which text models return as an attribute."""
    return F.cross_entropy(getattr(outputs, "logits", outputs), batch["labels"])


def next_token(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    """The mean over all tokens but the first of each text."""
    return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch["ids"][:, 1:].flatten())


def texts() -> dict[str, Tensor]:
    """Token ids whose ends are masked in every second text."""
    mask = torch.ones(N, LENGTH, dtype=torch.int64)
    mask[::2, 4:] = 0
    return {"ids": torch.randint(0, TOKENS, (N, LENGTH)), "mask": mask, "labels": torch.arange(N) % CLASSES}


def images(size: int) -> dict[str, Tensor]:
    """Noise."""
    return {"x": torch.randn(N, 3, size, size), "labels": torch.arange(N) % CLASSES}


MASKED = {"input_ids": "ids", "attention_mask": "mask"}


def _problem(model: nn.Module, data: dict[str, Tensor], loss: Any = cross_entropy, inputs: Any = "x") -> nestor.Problem:
    return nestor.Problem(
        model, L2(model, per="tensor", init=-5.0), loss, loss, train=data, val=data, test=data, inputs=inputs
    )


def bert() -> nestor.Problem:
    """A classifier of texts that takes its mask by name, and returns a `ModelOutput`."""
    return _problem(_bert(), texts(), inputs=MASKED)


def gpt2() -> nestor.Problem:
    """A language model that returns its cache of keys and values, too."""
    config = transformers.GPT2Config(
        vocab_size=TOKENS, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return _problem(transformers.GPT2LMHeadModel(config), texts(), next_token, MASKED)


def lora() -> nestor.Problem:
    """The classifier of texts with frozen weights, low-rank changes of them, and a head that is trained."""
    config = peft.LoraConfig(
        r=2, target_modules=["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS"
    )
    return _problem(peft.get_peft_model(_bert(), config), texts(), inputs=MASKED)


def vit() -> nestor.Problem:
    """A vision transformer."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
    )
    return _problem(model, images(16))


def resnet() -> nestor.Problem:
    """A residual network with batch normalization."""
    block: Any = timm.models.resnet.BasicBlock  # the annotation asks for an instance
    model = timm.models.resnet.ResNet(block, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=CLASSES)
    return _problem(model, images(32))


PROBLEMS: dict[str, Callable[[], nestor.Problem]] = {made.__name__: made for made in (bert, gpt2, lora, vit, resnet)}


def problem(name: str) -> nestor.Problem:
    """A problem with the same weights and data in each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PROBLEMS[name]()
