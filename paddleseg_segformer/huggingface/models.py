"""SegFormer's models under transformers' names and signatures.

Each class holds one network of this package as `model`, and differs in how it is called, loaded and
saved. Shapes: N batch, C channels, H W input pixels, K classes, L queries and S keys of a block.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface.config import SegformerConfig
from paddleseg_segformer.huggingface.loading import (
    dtype_name,
    fitting,
    load,
    shown_config,
    stated_config,
)
from paddleseg_segformer.huggingface.losses import classification_loss, segmentation_loss
from paddleseg_segformer.huggingface.outputs import EncoderOutput, LogitsOutput, ModelOutput
from paddleseg_segformer.models import MixVisionTransformer, exact_rewrites
from paddleseg_segformer.models.segformer import AllMLPHead
from paddleseg_segformer.weights import open_checkpoint
from paddleseg_segformer.weights.architectures import architecture_of
from paddleseg_segformer.weights.architectures.sizes import full_backbone
from paddleseg_segformer.weights.files.containers import write_tensors
from paddleseg_segformer.weights.files.download import local_path
from paddleseg_segformer.weights.formats import HUGGINGFACE
from paddleseg_segformer.weights.formats.naming import export_state
from paddleseg_segformer.weights.sidecars.hub_config import (
    BACKBONE_KEYS,
    CONFIG_FILE,
    EPSILONS,
    HEAD_KEYS,
    without_download,
    write_json,
)

WEIGHTS_FILE = "model.safetensors"

Pretrained = TypeVar("Pretrained", bound="_Pretrained")
Output = TypeVar("Output", bound=ModelOutput)


class _Pretrained(nn.Layer):
    """One network and its config.

    Args:
        config: The network's sizes, and the names of its classes.
        model: The network; by default one with initial weights.
    """

    model_type: ClassVar[str]  # of a config's `model` section
    main_input_name = "pixel_values"
    base_model_prefix = "segformer"

    def __init__(self, config: SegformerConfig, model: nn.Layer | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = config.build(self.model_type) if model is None else model
        if getattr(config, "gradient_checkpointing", False):
            self.gradient_checkpointing_enable()

    @classmethod
    def from_pretrained(
        cls: type[Pretrained],
        source: str | os.PathLike[str] | None,
        ignore_mismatched_sizes: bool = False,
        *,
        config: SegformerConfig | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        subfolder: str = "",
        dtype: Any = None,
        **overrides: Any,
    ) -> Pretrained:
        """Load a folder of `save_pretrained`, transformers' or this one, or any weight file.

        The network gets the LayerNorm epsilons of the code base that the weights come from. Where
        the source has no such head, as an ImageNet classifier, the head keeps its initial weights,
        which is logged. The model is in evaluation mode, as in transformers.

        Args:
            source: A Hugging Face folder, or what `open_checkpoint` reads; None where `config` and
                `state_dict` are given.
            ignore_mismatched_sizes: Accept a source with another number of classes; the classifier
                then keeps its initial weights.
            config: In place of the source's, or where to read it.
            state_dict: Weights in place of the source's, under the names of this class.
            subfolder: Of the source.
            dtype: Of the model's weights, one of `DTYPES` or Paddle's of these names; by default
                and for "auto" float32, whatever the file has.
            overrides: Fields of the config that replace the source's, such as `id2label`.
                Arguments about a download have no effect.

        Raises:
            UserError: no such file, weights that do not fit, or an unknown argument.
        """
        overrides = without_download(overrides)
        dtype = dtype_name(overrides.pop("torch_dtype", dtype))
        if source is None:
            if config is None or state_dict is None:
                raise UserError("source: found None, which needs both config and state_dict.")
            stated = stated_config("", config, overrides)
            assert stated, "of `config`"
            loaded = cls(stated)
        else:
            source = local_path(os.path.join(source, subfolder) if subfolder else source)
            stated = stated_config(source, config, overrides)
            checkpoint = open_checkpoint(source)
            own = shown_config(checkpoint, overrides) if stated is None else stated
            backbone = full_backbone(checkpoint.model.get("backbone", checkpoint.model))
            model = own.build(cls.model_type, {key: backbone[key] for key in EPSILONS})
            loaded = cls(own, model)
            if state_dict is None:
                load(model, source, checkpoint, ignore_mismatched_sizes)
        if state_dict is not None:
            loaded.set_state_dict(fitting(loaded, state_dict))
        loaded.to(dtype=dtype)
        loaded.eval()
        return loaded

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a folder for transformers: `config.json` and `model.safetensors`, in float32.

        Args:
            state_dict: Weights in place of the model's, under its names.

        Raises:
            UserError: the config is not of this network, or other weights.
        """
        own = self.state_dict() if state_dict is None else fitting(self, state_dict)
        prefix = "" if self.model_type else "backbone."
        state = {prefix + key.removeprefix("model."): item for key, item in own.items()}
        self._check_config(state)
        format = HUGGINGFACE if self.model_type else HUGGINGFACE.bare()
        arrays = {key: item.astype("float32").numpy() for key, item in state.items()}
        tensors = export_state(format, arrays, self.config.num_labels)
        write_tensors(tensors, Path(folder) / WEIGHTS_FILE, is_torch=True)
        written = {"architectures": [type(self).__name__], "dtype": "float32"}
        stated = {key: x for key, x in self.config.to_dict().items() if key != "torch_dtype"}
        write_json(Path(folder) / CONFIG_FILE, {**stated, **written})

    @property
    def backbone(self) -> MixVisionTransformer:
        """Return the encoder."""
        return self.model.backbone

    @property
    def segformer(self) -> SegformerModel:
        """Return the encoder as a model of its own, with the same layers."""
        return _view(SegformerModel(self.config, self.backbone), "backbone")

    @property
    def base_model(self) -> SegformerModel:
        """Return the same as `segformer`."""
        return self.segformer

    @property
    def num_labels(self) -> int:
        """Return the number of classes."""
        return self.config.num_labels

    @property
    def device(self) -> Any:
        """Return the place of the weights."""
        return self.parameters()[0].place

    @property
    def dtype(self) -> Any:
        """Return the number type of the weights."""
        return self.parameters()[0].dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return the number of weights; statistics of batch norms are none."""
        return sum(
            item.size
            for key, item in self.named_parameters()
            if not key.endswith(("._mean", "._variance"))
            and not (only_trainable and item.stop_gradient)
        )

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Tell whether blocks are recomputed for the gradients."""
        return self.backbone.use_recompute

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Recompute blocks for the gradients: less memory, more time.

        Args:
            gradient_checkpointing_kwargs: Of PyTorch's function, without effect.
        """
        self.backbone.use_recompute = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the gradients need."""
        self.backbone.use_recompute = False

    def _check_config(self, state: Mapping[str, Tensor]) -> None:
        """Raise a `UserError` where the config states other sizes than the network has."""
        shapes = {key: tuple(item.shape) for key, item in state.items()}
        architecture = architecture_of(shapes.get)
        assert architecture, "a network of this class"
        section = architecture.section(shapes.get)
        built = {**section["backbone"], **section}
        blocks = [getattr(self.backbone, f"block{stage}")[0] for stage in range(1, 5)]
        built["num_heads"] = [block.attn.num_heads for block in blocks]
        for theirs, ours in {**BACKBONE_KEYS, **HEAD_KEYS, "num_labels": "num_classes"}.items():
            stated = getattr(self.config, theirs)
            stated = list(stated) if isinstance(stated, tuple) else stated
            if built.get(ours, stated) != stated:
                raise UserError(
                    f"config: {theirs} is {stated}, but the network has {built[ours]}. Set it "
                    "before the network is made, or in from_pretrained."
                )

    def _encode(
        self, pixel_values: Tensor, with_attentions: bool | None
    ) -> tuple[list[Tensor], tuple[Tensor, ...] | None]:
        """Return the four maps and, where asked for, the attention weights of each block."""
        if not self._chosen("output_attentions", with_attentions):
            return self.backbone(pixel_values), None
        features, attentions = self.backbone.forward_with_attentions(pixel_values)
        return features, tuple(attentions)

    def _chosen(self, name: str, given: bool | None) -> bool:
        """Return an argument of a call, or what the config says where it is None."""
        chosen = getattr(self.config, name) if given is None else given
        if chosen not in (True, False):
            raise UserError(f"{name}: found {chosen!r}, expected True or False.")
        return chosen

    def _given(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """Return an output as it is, or as a tuple."""
        return output if self._chosen("return_dict", return_dict) else output.to_tuple()

    def _last_state(self, last: Tensor) -> Tensor:
        """Return stage 4's map, or its tokens (N, L, C4) where the config wants those."""
        return last if self.config.reshape_last_stage else last.flatten(2).transpose([0, 2, 1])


View = TypeVar("View", bound=nn.Layer)


def _view(part: View, name: str) -> View:
    """Return a part that is made anew from a model's layers, and so refuses hooks on itself."""

    def refuse(*_: Any) -> None:
        raise UserError(
            f"hooks: this part of a model does not run itself, its layers do. Register them on "
            f"those, or on the model's `{name}`."
        )

    part.register_forward_pre_hook = part.register_forward_post_hook = refuse
    return part


class SegformerModel(_Pretrained):
    """The encoder alone."""

    model_type = ""

    @property
    def backbone(self) -> MixVisionTransformer:
        """Return the encoder."""
        return self.model

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> EncoderOutput | tuple[Any, ...]:
        """(N, C, H, W) normalised image -> stage 4's map, and the outputs asked for.

        Args: as of `SegformerForSemanticSegmentation`.
        """
        features, attentions = self._encode(pixel_values, output_attentions)
        last = self._last_state(features[-1])
        is_wanted = self._chosen("output_hidden_states", output_hidden_states)
        states = (*features[:-1], last) if is_wanted else None
        return self._given(EncoderOutput(last, states, attentions), return_dict)


class SegformerDecodeHead(nn.Layer):
    """The all-MLP head.

    A layer that is set, such as `classifier`, takes effect in the network whose head this is.

    Args:
        config: The head's sizes.
        network: Whose head this is; by default a new head is made.
    """

    def __init__(self, config: SegformerConfig, network: AllMLPHead | None = None) -> None:
        super().__init__()
        if network is None:
            network = AllMLPHead(
                config.hidden_sizes,
                config.num_labels,
                config.decoder_hidden_size,
                config.classifier_dropout_prob,
            ).apply(config.init_weights)
        self._network = [network]  # not a part of its own
        for name, layer in network.named_children():
            if name != "backbone":
                self.add_sublayer(name, layer)

    def forward(self, encoder_hidden_states: Sequence[Tensor]) -> Tensor:
        """Four maps (N, C_i, h_i, w_i) -> logits (N, K, h_1, w_1)."""
        return self._network[0].decode(encoder_hidden_states)

    @property
    def classifier(self) -> nn.Layer:
        """Return the 1x1 convolution to the classes."""
        return self._network[0].linear_pred

    @classifier.setter
    def classifier(self, layer: nn.Layer) -> None:
        self.linear_pred = layer

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_sub_layers", ()):
            setattr(self._network[0], name, value)
        super().__setattr__(name, value)


class SegformerForSemanticSegmentation(_Pretrained):
    """The encoder and the all-MLP head."""

    model_type = "SegFormer"

    @property
    def decode_head(self) -> SegformerDecodeHead:
        """Return the head, with the same layers."""
        return _view(SegformerDecodeHead(self.config, self.model), "model")

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """(N, C, H, W) normalised image -> logits (N, K, ceil(H / 4), ceil(W / 4)).

        Args:
            labels: (N, H, W) class ids, for the loss; see `segmentation_loss`.
            output_hidden_states: Also the four maps of the encoder, always as maps.
            output_attentions: Also each block's attention weights, held whole.
            return_dict: False for a tuple of what is there; as the other two by default as the
                config says.
        """
        features, attentions = self._encode(pixel_values, output_attentions)
        with exact_rewrites(attentions is None):
            logits = self.model(pixel_values, features)
            loss = None
            if labels is not None:
                loss = segmentation_loss(logits, labels, self.config.semantic_loss_ignore_index)
        is_wanted = self._chosen("output_hidden_states", output_hidden_states)
        states = tuple(features) if is_wanted else None
        return self._given(LogitsOutput(loss, logits, states, attentions), return_dict)


class SegformerForImageClassification(_Pretrained):
    """The encoder and a linear classifier of the mean over stage 4."""

    model_type = "MixVisionTransformerClassifier"

    @property
    def classifier(self) -> nn.Layer:
        """Return the linear to the classes, which may be set."""
        return self.model.head

    @classifier.setter
    def classifier(self, layer: nn.Layer) -> None:
        self.model.head = layer

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """(N, C, H, W) normalised image -> logits (N, K).

        Args:
            labels: For the loss; see `classification_loss`.
            output_hidden_states: Also the four states of the encoder.
            output_attentions: Also each block's attention weights, held whole.
            return_dict: As of `SegformerForSemanticSegmentation`.
        """
        features, attentions = self._encode(pixel_values, output_attentions)
        with exact_rewrites(attentions is None):
            logits = self.model(pixel_values, features)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type)
        states = None
        if self._chosen("output_hidden_states", output_hidden_states):
            states = (*features[:-1], self._last_state(features[-1]))
        return self._given(LogitsOutput(loss, logits, states, attentions), return_dict)
