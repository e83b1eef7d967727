"""Any timm backbone as a dense feature extractor at a chosen stage and stride.

timm is loaded with the first backbone of its own: it takes two seconds, and the default backbone needs it not.
"""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from matchcut.errors import ModelError, unreadable
from matchcut.models.efficientnet_lite import Conv2dSame, EfficientNetLite0
from matchcut.models.pretrained import FORMS, GIVE_A_FILE, where_from

OWN = "tf_efficientnet_lite0"
"""The one backbone that is not made by timm, but as timm makes it."""


class Backbone(nn.Module):
    """Features of one or several stages of a timm model, brought to the grid of the finest and joined.

    Args:
        name: a timm model name, "resnet18", "tf_efficientnet_lite0", "vit_small_patch16_224.dino" or any other.
        stages: which features, counting a CNN's reductions from its stem (0) or a ViT's blocks; -1 is the last.
        stride: of a CNN's deepest stages: later downsampling is replaced by dilation. A ViT keeps its patch size.
        pretrained: let timm load (and download, where it must) its weights.
        weights: a local file to load timm's weights from instead of a download.

    Raises:
        ModelError: an unknown model or stage, a stride it cannot have, or weights that cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        stages: Sequence[int] = (3,),
        stride: int = 8,
        pretrained: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.stages, self.stride, self.weights = name, tuple(stages), stride, weights
        if not self.stages:
            raise ModelError("stages: expected at least one, got none")
        net: Any = _create(name, stride, pretrained, weights)
        config: dict[str, Any] = net.pretrained_cfg
        # ImageNet's mean and deviation stand in where a model states none.
        self.register_buffer("mean", torch.tensor(config.get("mean") or (0.485, 0.456, 0.406)).view(3, 1, 1), False)
        self.register_buffer("std", torch.tensor(config.get("std") or (0.229, 0.224, 0.225)).view(3, 1, 1), False)
        self.is_vit = _is_vit(name)
        if self.is_vit:
            self.stride = int(net.patch_embed.patch_size[0])
        self.gives_features = not hasattr(net, "forward_intermediates")
        count = len(net.blocks) if self.is_vit else len(getattr(net.feature_info, "info", net.feature_info))
        for stage in self.stages:
            if not -count <= stage < count:
                raise ModelError(f"{name}: no stage {stage}; it has {count}, {-count} to {count - 1}")
        self.stages = tuple(stage % count for stage in self.stages)
        if len(set(self.stages)) < len(self.stages):
            raise ModelError(f"{name}: stages {tuple(stages)} name one twice")
        self.net: Any = net

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] to one (B, C, h, w) a stage, h and w being H and W by its stride, rounded up
        (by some networks, as ConvNeXt, down)."""
        if self.is_vit:
            size = [-(-side // self.stride) * self.stride for side in image.shape[2:]]
            if size != list(image.shape[2:]):
                image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        image = (image - self.mean) / self.std
        features: list[Tensor]
        if self.gives_features:
            features = self.net(image)
            return [features[stage] for stage in self.stages]
        order = sorted(self.stages)
        features = self.net.forward_intermediates(
            image, indices=order, norm=self.is_vit, stop_early=True, intermediates_only=True
        )
        return [features[order.index(stage)] for stage in self.stages]

    def cut(self) -> None:
        """Take out what the features do not need, in place: nothing would train it."""
        if not self.gives_features:
            self.net.prune_intermediate_layers(sorted(self.stages))


def _create(name: str, stride: int, pretrained: bool, weights: str | None) -> Any:
    if name == OWN and not (pretrained and weights is None):
        own = EfficientNetLite0(stride)
        if weights is not None:
            _load(own, name, weights)
        return own
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3) or difflib.get_close_matches(
            name.split(".")[0], timm.list_models(), n=3
        )
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ModelError(f"unknown backbone {name!r}: timm has no such model{hint}")
    settings: dict[str, Any] = {"pretrained": pretrained and weights is None, "num_classes": 0}
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # its part behind the dot
        tags = ", ".join(one.rpartition(".")[2] for one in timm.list_pretrained(f"{name.split('.')[0]}.*"))
        raise ModelError(f"unknown backbone {name!r}: timm has its weights {tags}") from error
    if settings["pretrained"]:
        settings |= where_from(name)
    try:
        if _is_vit(name):
            net = timm.create_model(name, **settings, dynamic_img_size=True)
        else:
            try:
                net = timm.create_model(name, **settings, output_stride=stride)
            except (
                TypeError
            ):  # some CNNs take a stride in timm's other form only, which returns the features themselves
                settings.pop("num_classes")
                net = timm.create_model(name, **settings, output_stride=stride, features_only=True)
    except (TypeError, NotImplementedError, AssertionError) as error:
        raise ModelError(
            f"{name}: it cannot be used at stride {stride} on frames of any size {error}".strip()
        ) from error
    except Exception as error:  # whatever the download met
        raise ModelError(f"{name}: its weights could not be downloaded ({unreadable(error)}); {GIVE_A_FILE}") from error
    if weights is not None:
        _load(net, name, weights)
    return net


def _is_vit(name: str) -> bool:
    if name == OWN:
        return False
    import timm

    module = timm.model_entrypoint(name.split(".")[0]).__module__
    return module.rsplit(".", 1)[-1] in ("vision_transformer", "eva", "beit", "deit")


def _load(net: nn.Module, name: str, weights: str) -> None:
    """Load timm's weights of a model from a file: all that the network has, and nothing else but a classifier."""
    import timm.models

    if not Path(weights).is_file():
        raise ModelError(f"{name}: {weights} is no file of weights (there is no such file)")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are refused all the same
            stored = timm.models.load_state_dict(weights, use_ema=False, weights_only=True)
    except Exception as error:  # whatever the file made its reader raise
        raise ModelError(
            f"{name}: {weights} is no file of weights ({unreadable(error)}); expected {FORMS}, of tensors alone"
        ) from error
    own = net.state_dict()
    missing = [key for key in own if getattr(stored.get(key), "shape", None) != own[key].shape]
    heads = ("fc.", "head.", "classifier.", "head_dist.", "conv_head.", "bn2.", "fc_norm.")
    strangers = [key for key in stored if key not in own and not str(key).startswith(heads)]
    if missing or strangers:
        what = f"lacks {len(missing)} of {len(own)}, as {missing[0]}" if missing else f"also holds {strangers[0]}"
        raise ModelError(f"{name}: {weights} does not hold its weights: it {what}")
    net.load_state_dict({key: stored[key] for key in own})


class _SameDepthwise(nn.Module):
    """A `Conv2dSame`, depthwise at stride 2, for inference: without a padded copy of its input, which takes longer
    than the convolution.

    Of an even size, "same" pads one more after than before. So does a kernel that begins with zeros.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__()
        self.convolution = convolution
        self.weight = nn.Parameter(F.pad(convolution.weight.detach(), (1, 0, 1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, h, w), halves rounded up."""
        one = self.convolution
        if x.shape[2] % 2 or x.shape[3] % 2:
            result: Tensor = one(x)
            return result
        padding = one.kernel_size[0] // 2, one.kernel_size[1] // 2
        return F.conv2d(x, self.weight, one.bias, stride=2, padding=padding, groups=one.groups)


def _is_padded(convolution: Conv2dSame) -> bool:
    """Whether "same" pads an even size unevenly, by an odd kernel that is no single pixel."""
    plain = convolution.stride == (2, 2) and convolution.dilation == (1, 1)
    return plain and all(size % 2 and size > 1 for size in convolution.kernel_size)


def fold_batch_norms(net: nn.Module, example: Tensor | None = None) -> None:
    """Fold each batch normalisation into the convolution whose output it takes, in place; for inference only. Padded
    depthwise convolutions are made faster on the way.

    Which follows which is seen in a pass over `example`, so that any network will do
    in which a normalised output is used nowhere else.
    """
    produced: dict[int, tuple[nn.Conv2d, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    outputs: list[Tensor] = []  # kept, so that no other tensor takes their identity

    def after_convolution(module: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        produced[id(output)] = module, output._version
        outputs.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        convolution, version = produced.get(id(inputs[0]), (None, 0))
        if convolution is not None and inputs[0]._version == version:  # nothing changed it in place in between
            assert isinstance(module, nn.BatchNorm2d)
            pairs.append((convolution, module))

    handles = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before_norm))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 64, 64) if example is None else example)
    for handle in handles:
        handle.remove()
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
        convolution.weight, convolution.bias = fused.weight, fused.bias
        activation = nn.Sequential(*(one for one in (getattr(norm, "drop", None), getattr(norm, "act", None)) if one))
        for parent in net.modules():
            for name, child in parent.named_children():
                if child is norm:
                    setattr(parent, name, activation if len(activation) else nn.Identity())
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Conv2dSame) and child.groups > 1 and _is_padded(child):
                setattr(parent, name, _SameDepthwise(child))


def channels_of(backbone: Backbone) -> list[int]:
    """Channels of each of a backbone's feature maps."""
    info = backbone.net.feature_info
    return [int(getattr(info, "info", info)[stage]["num_chs"]) for stage in backbone.stages]
