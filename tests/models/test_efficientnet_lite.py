"""The default backbone beside timm's of the same name: the same to the bit."""

import subprocess
import sys

import pytest
import timm
import torch

from matchcut.models.efficientnet_lite import EfficientNetLite0


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_features_and_parameters_are_those_of_timm(stride):
    torch.manual_seed(0)
    expected = timm.create_model("tf_efficientnet_lite0", num_classes=0, output_stride=stride)
    for module in expected.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    own = EfficientNetLite0(stride)
    assert list(own.state_dict()) == list(expected.state_dict())
    own.load_state_dict(expected.state_dict())
    keys = ("num_chs", "reduction")
    assert own.feature_info == [{key: one[key] for key in keys} for one in expected.feature_info]
    for key in ("mean", "std"):
        assert own.pretrained_cfg[key] == expected.pretrained_cfg[key]
    image = torch.rand(2, 3, 45, 70)
    for training in (True, False):
        own.train(training)
        expected.train(training)
        with torch.no_grad():
            assert torch.equal(own(image), expected(image))
            for stages in ([3], [0, 2, 4]):
                found = own.forward_intermediates(image, stages)
                rest = {"stop_early": True, "intermediates_only": True}
                for one, other in zip(found, expected.forward_intermediates(image, stages, **rest), strict=True):
                    assert torch.equal(one, other)
    own.prune_intermediate_layers([1, 3])
    expected.prune_intermediate_layers([1, 3])
    assert list(own.state_dict()) == list(expected.state_dict())


def test_random_weights_are_drawn_as_timm_draws_them():
    deviations = [
        [float(one.weight.detach().std()) for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
        for network in (EfficientNetLite0(), timm.create_model("tf_efficientnet_lite0", num_classes=0))
    ]
    torch.testing.assert_close(*map(torch.tensor, deviations), rtol=0.35, atol=0)


@pytest.mark.parametrize("model", ["mask-vos", "transport-net", "label-propagation"])
def test_shipped_models_load_neither_timm_nor_the_compiler_of_torch(model):
    script = f"import sys, matchcut; matchcut.load_model({model!r}); print([name for name in sys.modules if name in "
    script += "('timm', 'torchvision', 'torch._dynamo', 'matplotlib', 'pandas')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
