"""A causal LM whose forward pass ends in the loss: the module that is trained and sharded."""

from typing import Any

import torch
from torch import Tensor, nn

from reprise.model.likelihood import has_known_head, replaced_forward
from reprise.model.loss import IGNORE, head_scaling, linear_cross_entropy


def one_type(model: nn.Module) -> Any:
    """A context in which a model computes in half precision if only some of its weights have that dtype."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    half = torch.bfloat16 if torch.bfloat16 in types else torch.float16
    device = next(model.parameters()).device.type
    return torch.autocast("cpu" if device == "meta" else device, half, enabled=len(types) > 1)


class Objective(nn.Module):
    """Wraps a transformers model to compute its loss.

    With labels, forward returns the summed loss; without, the model's own output, so that `token_nll` accepts this
    object as a model. The loss is computed inside forward because FSDP gathers the weights there.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._scaling = head_scaling(model.config)
        self._known_head = False
        if model.device.type != "meta":
            self.find_head(model)

    def find_head(self, model: Any | None = None) -> None:
        """Test whether the loss can be computed from hidden states; call it after the weights are loaded.

        Args:
            model: model to test; default: this object, in which FSDP gathers the weights, so every process must call.
        """
        ids = torch.zeros((1, 2), dtype=torch.int64, device=self.model.device)
        with torch.no_grad(), one_type(self):
            self._known_head = has_known_head(self if model is None else model, ids)

    def get_output_embeddings(self) -> Any:
        """The output layer."""
        return self.model.get_output_embeddings()

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Loss in nats, summed over the labels; without labels the model's own output.

        Args:
            input_ids: int64[B, T].
            labels: int64[B, T], not shifted: token t is predicted from those before it; IGNORE does not count.
            inputs: other arguments of the model (`position_ids`, `attention_mask`).
        """
        if labels is None:
            return self.model(input_ids=input_ids, **inputs)
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()
        if not self._known_head:
            logits = self.model(input_ids=input_ids, **inputs).logits
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), targets, ignore_index=IGNORE, reduction="sum"
            )
        head = self.get_output_embeddings()
        losses: list[Tensor] = []

        def into_loss(hidden: Tensor) -> Tensor:
            losses.append(
                linear_cross_entropy(
                    hidden.flatten(0, 1), head.weight, targets, self._scaling, getattr(head, "bias", None)
                )
            )
            return hidden[..., :1]

        with replaced_forward(head, into_loss):
            self.model(input_ids=input_ids, **inputs)
        return losses[0]
